"""Repeated timing: a warm-up until rounds stop getting faster, then at least 20 rounds or 10 s of them; median,
quartiles, count. Two ways of doing one thing are timed in turns.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from lpobench.records.bench import Ratio, Timing
from lpobench.records.provenance import peak_resident_bytes

Action = Callable[[], object]

GAIN = 0.05
"""A warm-up round this much faster than all before it calls for another."""
LEAST, MOST_WARMUP = 3, 25
RESAMPLES, CONFIDENCE = 2000, 0.95


@dataclass(frozen=True)
class Effort:
    """How long to measure."""

    rounds: int = 20
    seconds: float = 10.0
    """Rounds end when either is reached, but not before the third."""
    warmup: int | None = None
    """Rounds of warm-up; None: until they are stable, for at most as many seconds."""
    exact: bool = False
    """As many rounds as asked for, however long they take."""

    @classmethod
    def of(cls, warmup: int | None, repeats: int | None) -> Effort:
        """The usual, or so many rounds."""
        return cls(warmup=warmup) if repeats is None else cls(repeats, warmup=warmup, exact=True)

    def enough(self, rounds: int, seconds: float) -> bool:
        if self.exact:
            return rounds >= self.rounds
        return rounds >= self.rounds or (rounds >= LEAST and seconds >= self.seconds)


@dataclass(frozen=True)
class Rounds:
    """Seconds of each round, by the wall and, on a GPU, by its own clock."""

    wall: list[float]
    device: list[float]
    warmup: int
    stable: bool
    peak_memory_bytes: int

    @property
    def timing(self) -> Timing:
        low, median, high = np.quantile(self.wall, (0.25, 0.5, 0.75)).tolist()
        return Timing(
            median=median,
            low=low,
            high=high,
            n=len(self.wall),
            peak_memory_bytes=self.peak_memory_bytes,
            warmup=self.warmup,
            stable=self.stable,
            device_median=float(np.median(self.device)) if self.device else None,
        )


def measure(action: Action, device: torch.device, effort: Effort) -> Timing:
    """Time `action` on a device; each round is waited for. The peak counts the warm-up too."""
    return in_turns({"": action}, device, effort)[""].timing


def in_turns(actions: Mapping[str, Action], device: torch.device, effort: Effort) -> dict[str, Rounds]:
    """Time several actions, one round of each after the other: A B A B. Each has its own warm-up."""
    clocks = {name: _Clock(device) for name in actions}
    warmups = {}
    for name, action in actions.items():
        clocks[name].forget_peak()
        warmups[name] = warm_up(action, device, effort)
        clocks[name].note_peak()
    while not all(effort.enough(len(clock.wall), sum(clock.wall)) for clock in clocks.values()):
        for name, action in actions.items():
            clocks[name].round(action)
    return {
        name: Rounds(clock.wall, clock.device_seconds, *warmups[name], clock.peak)
        for name, clock in clocks.items()
    }


def ratio(parts: Sequence[tuple[Rounds, Rounds, float]], seed: int = 0) -> Ratio:
    """Median of the slow over median of the fast, with its bootstrap interval over rounds.

    Of several parts (slow, fast, how often), the sums of their medians.
    """
    draw = np.random.default_rng(seed)
    drawn, found = np.zeros((2, RESAMPLES)), np.zeros(2)
    for *ways, weight in parts:
        for row, rounds in enumerate(ways):
            seconds = np.asarray(rounds.wall)
            picks = draw.integers(len(seconds), size=(RESAMPLES, len(seconds)))
            drawn[row] += weight * np.median(seconds[picks], axis=1)
            found[row] += weight * np.median(seconds)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(drawn[0] / drawn[1], (tail, 1 - tail)).tolist()
    return Ratio(value=found[0] / found[1], low=low, high=high, n=min(len(fast.wall) for _, fast, _ in parts))


def warm_up(action: Action, device: torch.device, effort: Effort) -> tuple[int, bool]:
    """Rounds taken, and whether they had become stable."""
    if effort.warmup is not None:
        for _ in range(effort.warmup):
            action()
        return effort.warmup, True
    least = LEAST if device.type == "cuda" else 2
    seconds: list[float] = []
    while len(seconds) < MOST_WARMUP:
        seconds.append(seconds_of(action, device))
        if len(seconds) >= least and seconds[-1] > (1 - GAIN) * min(seconds[:-1]):
            return len(seconds), True
        if sum(seconds) > effort.seconds:
            break
    return len(seconds), False


def seconds_of(action: Action, device: torch.device) -> float:
    """Wall seconds of one call, waited for."""
    synchronize(device)
    began = time.perf_counter()
    action()
    synchronize(device)
    return time.perf_counter() - began


class _Clock:
    """Times rounds of one action."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.wall: list[float] = []
        self.device_seconds: list[float] = []
        self.peak = 0

    def forget_peak(self) -> None:
        forget_peak(self.device)

    def note_peak(self) -> None:
        self.peak = max(self.peak, peak_memory(self.device))

    def round(self, action: Action) -> None:
        self.forget_peak()
        if self.device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            timed = lambda: (start.record(), action(), end.record())
            self.wall.append(seconds_of(timed, self.device))
            self.device_seconds.append(start.elapsed_time(end) / 1000)
        else:
            self.wall.append(seconds_of(action, self.device))
        self.note_peak()


def waited_clock() -> float:
    """Seconds, once the GPU, if there is one, has done what it was given: a timer for pytest-benchmark."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


_RESET, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def forget_peak(device: torch.device) -> None:
    """Start a new peak, where the device, or Linux for its own memory, keeps one."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif _RESET.exists():
        _RESET.write_text("5")


def peak_memory(device: torch.device) -> int:
    """Bytes since `forget_peak` on a GPU and on Linux, else of the whole process so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if _RESET.exists():
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return peak_resident_bytes()
