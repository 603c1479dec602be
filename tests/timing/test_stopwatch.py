"""Rounds, warm-up, quartiles and ratios, on a clock that tells what it is told."""

import itertools

import psutil
import pytest
import torch

from lpobench.timing import stopwatch
from lpobench.timing.stopwatch import Effort, Rounds, in_turns, measure, ratio, warm_up

CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch):
    """`clock(1, 2, ...)`: the next timed calls take so many seconds; the last number goes on for ever."""

    def seconds(*taken):
        taken = itertools.chain(taken, itertools.repeat(taken[-1]))
        now, stamps = 0.0, []

        def tick():
            nonlocal now
            if len(stamps) % 2:
                now += next(taken)
            stamps.append(now)
            return now

        monkeypatch.setattr(stopwatch.time, "perf_counter", tick)

    return seconds


def rounds(*seconds):
    return Rounds(list(seconds), [], 0, True, 0)


def test_quartiles(clock):
    """Five rounds of 1, 2, 3, 4 and 10 seconds: median 3, quartiles 2 and 4; the warm-up is not timed."""
    calls = []
    clock(1, 2, 3, 4, 10)
    timing = measure(lambda: calls.append(1), CPU, Effort(5, warmup=2, exact=True))
    assert (timing.median, timing.low, timing.high, timing.n, len(calls)) == (3, 2, 4, 5, 7)
    assert (timing.warmup, timing.device_median) == (2, None)
    assert timing.peak_memory_bytes > 0


def test_warm_up_ends_when_rounds_get_no_faster(clock):
    """8, 4, 2 s are each much faster than before, the second 2 s is not."""
    clock(8, 4, 2, 2)
    assert warm_up(lambda: None, CPU, Effort(seconds=100)) == (4, True)
    clock(1, 1)
    assert warm_up(lambda: None, CPU, Effort()) == (2, True)


def test_warm_up_that_never_ends_is_told(clock):
    clock(*(100 * 0.9**number for number in range(100)))
    assert warm_up(lambda: None, CPU, Effort(seconds=150)) == (2, False)
    assert warm_up(lambda: None, CPU, Effort(seconds=1e9)) == (stopwatch.MOST_WARMUP, False)


@pytest.mark.parametrize(("seconds", "n"), [(0.01, 20), (1.0, 10), (4.0, 3), (60.0, 3)])
def test_twenty_rounds_or_ten_seconds_but_three_at_least(clock, seconds, n):
    clock(seconds)
    assert measure(lambda: None, CPU, Effort(warmup=0)).n == n


def test_as_many_rounds_as_asked_for(clock):
    clock(60.0)
    assert measure(lambda: None, CPU, Effort.of(0, 7)).n == 7


def test_two_ways_take_turns():
    calls = []
    actions = {name: lambda name=name: calls.append(name) for name in "AB"}
    found = in_turns(actions, CPU, Effort.of(1, 3))
    assert calls == ["A", "B", *"ABABAB"]
    assert {name: len(each.wall) for name, each in found.items()} == {"A": 3, "B": 3}


def test_ratio_of_medians():
    """Medians 6 and 3: twice as fast. Rounds that do not vary leave no interval."""
    found = ratio([(rounds(5, 6, 100), rounds(2, 3, 4), 1.0)])
    assert found.value == 2
    assert found.low <= 2 <= found.high
    same = ratio([(rounds(6, 6, 6), rounds(4, 4, 4), 1.0)])
    assert (same.value, same.low, same.high, same.n) == (1.5, 1.5, 1.5, 3)


def test_ratio_of_sums():
    """(10 + 2 x 8) / (9 + 2 x 2) = 26 / 13."""
    parts = [(rounds(10, 10), rounds(9, 9), 1.0), (rounds(8, 8), rounds(2, 2), 2.0)]
    assert ratio(parts).value == 2


def test_interval_of_a_ratio_covers_the_truth():
    """Medians 2 and 1 with 20 % noise: the 95 % interval misses 2 in few of 60 draws."""
    draw = torch.Generator().manual_seed(0)
    noisy = lambda median: rounds(
        *(median * (1 + 0.2 * torch.randn(25, generator=draw)).clamp(min=0.1)).tolist()
    )
    found = [ratio([(noisy(2.0), noisy(1.0), 1.0)], seed) for seed in range(60)]
    assert sum(each.low <= 2 <= each.high for each in found) >= 52


def test_peak_starts_anew():
    """From what the process holds at that moment; 256 MiB more that it takes show."""
    own, device = psutil.Process(), CPU
    stopwatch.forget_peak(device)
    if stopwatch._RESET.exists():
        assert abs(stopwatch.peak_memory(device) - own.memory_info().rss) < 2**25
    held = torch.ones(2**26)
    assert stopwatch.peak_memory(device) >= own.memory_info().rss > held.nbytes
