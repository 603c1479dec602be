"""Where the time and the work of an action go: the network's calls, seen from outside.

A workload's parts are wrapped while it is watched: encoding prompts, the denoiser, the VAE, the reward, the backward
pass, the optimiser. What is in none of them is bookkeeping. A part inside another is charged to itself alone. On a
GPU a part's time lies between two events, so that watching waits for nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from lpobench.records.bench import Phase
from lpobench.timing.stopwatch import Action, synchronize

T = TypeVar("T")
BOOKKEEPING = "bookkeeping"


@dataclass
class Span:
    """One stretch of a part: between two stamps, inside another span."""

    name: str
    parent: Span | None
    begin: float | torch.cuda.Event
    flops: int
    """Before it; afterwards its own."""
    end: float | torch.cuda.Event | None = None


@dataclass
class Phases:
    """Spans of one action. `work` tells the FLOPs so far, where they are counted."""

    device: torch.device
    work: Callable[[], int] = lambda: 0
    spans: list[Span] = field(default_factory=list)
    inside: Span | None = None

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        span = Span(name, self.inside, self._stamp(), self.work())
        self.spans.append(span)
        self.inside = span
        try:
            yield
        finally:
            self.inside = span.parent
            span.end, span.flops = self._stamp(), self.work() - span.flops

    def around(self, name: str | Callable[[], str], call: Callable[..., T]) -> Callable[..., T]:
        """The call, charged to a part; which, may be known only then."""

        def watched(*args: object, **kwargs: object) -> T:
            with self.span(name if isinstance(name, str) else name()):
                return call(*args, **kwargs)

        return watched

    def totals(self) -> dict[str, Phase]:
        """By part, less what is inside; to be asked once the device is done."""
        seconds: dict[str, float] = {}
        flops: dict[str, int] = {}
        for span in self.spans:
            took = self._between(span)
            seconds[span.name] = seconds.get(span.name, 0.0) + took
            flops[span.name] = flops.get(span.name, 0) + span.flops
            if span.parent is not None:
                seconds[span.parent.name] -= took
                flops[span.parent.name] -= span.flops
        return {name: Phase(seconds=seconds[name], flops=flops[name]) for name in seconds}

    def _stamp(self) -> float | torch.cuda.Event:
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _between(self, span: Span) -> float:
        if isinstance(span.begin, torch.cuda.Event):
            return span.begin.elapsed_time(span.end) / 1000
        return span.end - span.begin


@contextmanager
def replaced(target: object, names: Mapping[str, Callable[..., object]]) -> Iterator[None]:
    """Inside, an object's methods are others; afterwards its own again."""
    own = {name: vars(target)[name] for name in names if name in vars(target)}
    for name, call in names.items():
        setattr(target, name, call)
    try:
        yield
    finally:
        for name in names:
            delattr(target, name)
            if name in own:
                setattr(target, name, own[name])


Watched = Callable[[Phases], ExitStack]
"""Wraps the parts of a workload until the stack is closed."""


def split(action: Action, watched: Watched, device: torch.device, rounds: int = 3) -> dict[str, Phase]:
    """Median seconds of each part over some rounds, and its FLOPs in one more; the first round does not count."""
    found: dict[str, list[float]] = {}
    for number in range(rounds + 1):
        phases = Phases(device)
        synchronize(device)
        with watched(phases), phases.span(BOOKKEEPING):
            action()
        synchronize(device)
        if number:
            for name, phase in phases.totals().items():
                found.setdefault(name, []).append(phase.seconds)
    work = {name: phase.flops for name, phase in flops_by_phase(action, watched, device).items()}
    parts = [name for name in found if name != BOOKKEEPING]
    return {
        name: Phase(seconds=float(np.median(found[name])), flops=work.get(name, 0))
        for name in (*parts, BOOKKEEPING)
    }


def flops_by_phase(action: Action, watched: Watched, device: torch.device) -> dict[str, Phase]:
    """FLOPs of each part, counted operation by operation in one call."""
    with counting() as counter:
        phases = Phases(device, counter.get_total_flops)
        with watched(phases), phases.span(BOOKKEEPING):
            action()
        synchronize(device)
    return phases.totals()


def flops_of(action: Action) -> int:
    """Of one call."""
    with counting() as counter:
        action()
    return counter.get_total_flops()


@contextmanager
def counting() -> Iterator[FlopCounterMode]:
    """FlopCounterMode; compiled code is run eagerly, since it cannot be looked into."""
    with torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False) as counter:
        yield counter
