"""The stopwatch, on a clock that is turned by hand."""

import pytest

from lpobench.records import costs as module
from lpobench.records.costs import Costs
from lpobench.records.record import Cost


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])
    return now


def test_a_phase_inside_another_is_charged_once(clock):
    """10 s and 5 calls in all, 4 s and 3 calls of them in two inner phases: 6 s and 2 calls are left."""
    costs, calls = Costs(), [0]
    costs.meter = lambda: {"calls": calls[0], "rows": 2 * calls[0]}
    with costs.phase("outer"):
        clock[0], calls[0] = 2.0, 1
        for seconds, more in ((1.0, 1), (3.0, 2)):
            with costs.phase("inner"):
                clock[0], calls[0] = clock[0] + seconds, calls[0] + more
        clock[0], calls[0] = 10.0, 5
    assert costs.phases == {
        "outer": Cost(seconds=6, calls=2, rows=4),
        "inner": Cost(seconds=4, calls=3, rows=6),
    }


def test_time_is_charged_when_the_phase_fails(clock):
    costs = Costs()

    def fail():
        clock[0] = 3.0
        raise KeyError

    with pytest.raises(KeyError), costs.phase("a"):
        fail()
    assert costs.phases["a"].seconds == 3


def test_making_an_item_is_charged_and_using_it_is_not(clock):
    def made():
        for item in "xy":
            clock[0] += 1
            yield item

    costs, seen = Costs(), []
    for item in costs.each("made", made()):
        clock[0] += 10
        seen.append(item)
    assert seen == ["x", "y"]
    assert costs.phases["made"].seconds == 2


def test_phases_add_up(clock):
    costs = Costs()
    costs.add("a", Cost(seconds=1, calls=2, rows=3))
    costs.add("a", Cost(seconds=1, calls=2, rows=3))
    assert costs.phases == {"a": Cost(seconds=2, calls=4, rows=6)}
