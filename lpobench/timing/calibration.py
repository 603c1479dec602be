"""What the calls of a run take here: rehearsed with networks that do nothing, then timed, each size a few times.

A rehearsal gives, for any method, the exact list of calls and their sizes in an instant. What would take longer than
`CAP` is timed at a smaller size.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from lpobench.sampling import Noisy
from lpobench.timing.phases import flops_of, replaced
from lpobench.timing.rewards import Choice
from lpobench.timing.stopwatch import Action, seconds_of
from lpobench.timing.workload import Workload, noise, prompts
from lpobench.types import Backbone

CAP = 6.0
"""Seconds that one timed action may take."""
CALLS = 3
"""Timed calls of each size, after one that does not count."""

Calls = Counter[tuple[str, int]]
"""(kind, rows) -> how often: predict, decode, score."""


@dataclass
class Calibration:
    """Times calls on the parts of a workload."""

    load: Workload
    known: dict[tuple[str, int], float] = field(default_factory=dict)

    @property
    def backbone(self) -> Backbone:
        return self.load.backbone

    @cached_property
    def needs(self) -> tuple[bool, bool]:
        """Whether the reward looks at the x0 estimate, and at its image."""
        return (False, False) if self.load.reward is None else self.choice(1).needs(self.load.reward.reward)

    @cached_property
    def image(self) -> Float[Tensor, "1 3 H W"]:
        with torch.no_grad():
            return self.backbone.decode(noise(1, self.backbone))

    def choice(self, rows: int) -> Choice:
        return Choice.of(self.load.policy, rows, 1)

    def seconds(self, calls: Calls) -> float:
        """Of all these calls."""
        return sum(number * self.of(*call) for call, number in calls.items())

    def of(self, kind: str, rows: int) -> float:
        """Seconds of one call; of large ones, from a smaller size."""
        if (kind, rows) not in self.known:
            size = self.affordable(kind, rows)
            self.known[kind, rows] = rows / size * self.timed(self.action(kind, size))
        return self.known[kind, rows]

    def affordable(self, kind: str, rows: int) -> int:
        """The largest size up to `rows`, of halves of it, whose call should not take longer than CAP."""
        if (kind, 1) not in self.known:
            self.known[kind, 1] = self.timed(self.action(kind, 1))
        size = rows
        while size > 1 and size * self.known[kind, 1] > CAP:
            size = (size + 1) // 2
        return size

    def timed(self, action: Action) -> float:
        """Median seconds after one call that does not count; one call is enough where it takes long."""
        first = seconds_of(action, self.load.device)
        if first > CAP:
            return first
        found = sorted(seconds_of(action, self.load.device) for _ in range(CALLS))
        return found[len(found) // 2]

    def action(self, kind: str, rows: int) -> Action:
        return torch.no_grad()(getattr(self, f"_{kind}")(rows))

    def _predict(self, rows: int) -> Action:
        """As a guided step makes it, where there are two halves."""
        policy = self.load.policy
        guided = policy.guidance_scale != 1 and rows % 2 == 0
        num = rows // 2 if guided else rows
        latents, texts = noise(num, self.backbone), prompts(num)
        t = torch.full((num,), policy.timesteps[len(policy.timesteps) // 2], device=self.load.device)
        call = policy.denoise if guided else policy.predict
        return lambda: call(latents, t, texts)

    def _decode(self, rows: int) -> Action:
        latents = noise(rows, self.backbone)
        return lambda: self.backbone.decode(latents)

    def _score(self, rows: int) -> Action:
        assert self.load.reward is not None
        reward = self.load.reward.reward
        ready = self.choice(rows).prepared(reward)
        return lambda: reward.score(ready)

    def flops(self, calls: Calls) -> int:
        """Of all these calls: proportional to their rows."""
        return sum(number * rows * self._row_flops(kind) for (kind, rows), number in calls.items())

    def _row_flops(self, kind: str) -> int:
        key = f"flops of {kind}", 2
        if key not in self.known:
            self.known[key] = flops_of(self.action(kind, 2)) / 2
        return int(self.known[key])

    @contextmanager
    def rehearsing(self) -> Iterator[Calls]:
        """Inside, the networks do nothing but to be counted."""
        calls: Calls = Counter()
        estimates, decodes, image = *self.needs, self.image

        def predict(latents: Tensor, t: Tensor, conditioning: object) -> Tensor:
            calls["predict", len(latents)] += 1
            return torch.randn_like(latents)

        def decode(latents: Tensor) -> Tensor:
            calls["decode", len(latents)] += 1
            return image.expand(len(latents), -1, -1, -1)

        def look(noisy: Noisy) -> Tensor:
            _ = (noisy.images if decodes else None), (noisy.estimate if estimates else None)
            calls["score", len(noisy.latents)] += 1
            return torch.zeros(len(noisy.latents), device=noisy.latents.device)

        reward = self.load.reward
        looks = {} if reward is None else {"look": look}
        networks = {"predict": predict, "decode": decode}
        with replaced(self.backbone, networks), replaced(reward, looks), torch.no_grad():
            yield calls
