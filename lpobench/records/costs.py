"""What the phases of a run cost: wall time and denoiser work."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
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
        self.meter: Callable[[], Mapping[str, int]] = dict
        """Work so far, by the names of a Cost's fields: `policy.work`, once there is a policy."""
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
            work = {kind: num - before.get(kind, 0) for kind, num in now.items()}
            spent = Cost(seconds=seconds, **work)
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
    return Cost(**{name: getattr(a, name) + getattr(b, name) for name in Cost.model_fields})


def _less(a: Cost, b: Cost) -> Cost:
    return Cost(**{name: getattr(a, name) - getattr(b, name) for name in Cost.model_fields})
