"""What the phases of a run cost: wall time and denoiser work."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from lpobench.records.record import Cost

T = TypeVar("T")


class Costs:
    """A stopwatch with a denoiser meter. A phase inside another is charged to itself alone.

    Work on an accelerator is charged where it is waited for: phases should end with a result on the CPU.
    """

    def __init__(self) -> None:
        self.phases: dict[str, Cost] = {}
        self.meter: Callable[[], tuple[int, int]] = lambda: (0, 0)
        """Forward passes and latents so far: (policy.calls, policy.rows), once there is a policy."""
        self._inner = Cost()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Charge what happens inside to a phase."""
        began, before = time.perf_counter(), self.meter()
        outer, self._inner = self._inner, Cost()
        self.phases.setdefault(name, Cost())
        try:
            yield
        finally:
            seconds, now = time.perf_counter() - began, self.meter()
            spent = Cost(seconds=seconds, calls=now[0] - before[0], rows=now[1] - before[1])
            self.add(name, _less(spent, self._inner))
            self._inner = _sum(outer, spent)

    def each(self, name: str, items: Iterable[T]) -> Iterator[T]:
        """The items, each charged to a phase while it is being made."""
        iterator, done = iter(items), object()
        while True:
            with self.phase(name):
                item = next(iterator, done)
            if item is done:
                return
            yield item

    def add(self, name: str, cost: Cost) -> None:
        """Charge a phase with what somebody else measured."""
        self.phases[name] = _sum(self.phases.get(name, Cost()), cost)


def _sum(a: Cost, b: Cost) -> Cost:
    return Cost(seconds=a.seconds + b.seconds, calls=a.calls + b.calls, rows=a.rows + b.rows)


def _less(a: Cost, b: Cost) -> Cost:
    return Cost(seconds=a.seconds - b.seconds, calls=a.calls - b.calls, rows=a.rows - b.rows)
