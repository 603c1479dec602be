"""What one choice among k candidates costs with each reward, stage by stage (LPO's timing table).

denoising step   one guided step of the policy, which draws the candidates
x0 prediction    one more guided call, where the reward looks at the x0 estimate
VAE decode       of that estimate
reward           what is left of the score, prompts encoded before
total            denoising step + k times the others, one candidate at a time: as published
in one batch     the same work as a rollout does it, k candidates at once, timed as a whole
"""

from __future__ import annotations

import gc
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from lpobench.launch import memory
from lpobench.plugin import RewardSettings
from lpobench.prepare import device_of, dtype_of
from lpobench.records.bench import Measurement, Timing
from lpobench.sampling import Noisy, Policy
from lpobench.slots import name_of
from lpobench.spec import RunSpec
from lpobench.timing.environment import Watch
from lpobench.timing.phases import flops_of
from lpobench.timing.stopwatch import Action, Effort, measure
from lpobench.timing.workload import LESS, count, noise, prompts, what_trains
from lpobench.types import Backbone, RewardModel

STEP, ESTIMATE, DECODE, REWARD = "denoising step", "x0 prediction", "VAE decode", "reward"
BATCHED = "in one batch"
MANY = 256
PER_CANDIDATE = (ESTIMATE, DECODE, REWARD)


def reward_costs(
    spec: RunSpec,
    rewards: Mapping[str, RewardSettings],
    effort: Effort,
    *,
    batch: int = 1,
    candidates: int = 4,
    allow_busy: bool = False,
) -> Measurement:
    """Measure rewards one after the other: each is freed before the next is loaded. Raises UserError."""
    device = device_of(spec)
    watch = Watch(device, allow_busy=allow_busy)
    found = Found()
    with memory.explained("timing rewards", LESS):
        backbone = spec.backbone.load(device, dtype_of(spec))
        policy = Policy(backbone, spec.sampling, None if spec.parameters == "all" else spec.lora, spec.seed)
        found.parameters["denoiser"] = count(backbone.denoiser)
        choice = Choice.of(policy, batch, candidates)
        unit = choice.unit_flops()
        for label, settings in rewards.items():
            _measure(label, settings.load(backbone, device, dtype_of(spec)), choice, effort, found)
            gc.collect()
            memory.free()
    return Measurement(
        verb="reward",
        setup=_setup(spec, rewards, backbone, batch, candidates),
        environment=watch.environment(),
        timings=found.timings,
        flops=found.flops,
        unit_flops=unit,
        parameters=found.parameters,
        numbers={name: value / unit for name, value in found.prompt_flops.items()},
    )


@dataclass(frozen=True)
class Found:
    """What has been measured so far."""

    timings: dict[str, Timing] = field(default_factory=dict)
    flops: dict[str, int] = field(default_factory=dict)
    parameters: dict[str, int] = field(default_factory=dict)
    prompt_flops: dict[str, int] = field(default_factory=dict)


def _measure(label: str, reward: RewardModel, choice: Choice, effort: Effort, found: Found) -> None:
    """All stages of one reward; nothing of it is held when this returns."""
    found.parameters[label] = parameters_of(reward)
    for stage, action in choice.stages(reward).items():
        name = f"{label}: {stage}"
        found.timings[name] = measure(action, choice.policy.backbone.device, effort)
        found.flops[name] = flops_of(action)
    found.prompt_flops[f"{label}: forwards per new prompt"] = choice.prompt_flops(reward)


def _setup(
    spec: RunSpec, rewards: Mapping[str, RewardSettings], backbone: Backbone, batch: int, candidates: int
) -> dict[str, Any]:
    return {
        "backbone": {"name": name_of(spec.backbone), **spec.backbone.model_dump(mode="json")},
        "rewards": {label: {"name": name_of(s), **_weights(s)} for label, s in rewards.items()},
        "precision": spec.train.precision,
        "latent_shape": list(backbone.latent_shape),
        "guidance_scale": spec.sampling.guidance_scale,
        "prompts": batch,
        "candidates": candidates,
        **what_trains(spec),
    }


def _weights(settings: RewardSettings) -> dict[str, Any]:
    """What of a reward's settings decides its cost: not how it would be trained."""
    return settings.model_dump(mode="json", exclude={"training", "pairs"})


@dataclass(frozen=True)
class Choice:
    """One step of a rollout, in the middle of the sampling grid: b prompts, k candidates each."""

    policy: Policy
    latents: torch.Tensor
    t: torch.Tensor
    s: torch.Tensor
    texts: list[str]
    candidates: torch.Tensor
    """(k b) c h w, k slower"""

    @classmethod
    def of(cls, policy: Policy, batch: int, num: int) -> Choice:
        policy.std_range()  # raises UserError where no step draws candidates
        stochastic = [index for index, std in enumerate(policy.stds) if std > 0]
        index = stochastic[len(stochastic) // 2]
        device, texts = policy.backbone.device, prompts(batch)
        t, s = (torch.full((batch,), policy.timesteps[i], device=device) for i in (index, index + 1))
        latents = noise(batch, policy.backbone).to(policy.latent_dtype)
        generator = torch.Generator(device).manual_seed(1)
        with torch.no_grad():
            drawn = policy.step(latents, t, s, texts).sample(num, generator).flatten(0, 1)
        return cls(policy, latents, t, s, texts, drawn.to(policy.latent_dtype))

    @property
    def num(self) -> int:
        """k"""
        return len(self.candidates) // len(self.texts)

    def noisy(self, num: int) -> Noisy:
        """The first `num` candidates of every prompt, to be looked at for the first time."""
        rows = num * len(self.texts)
        return Noisy(self.candidates[:rows], self.s.repeat(num), self.texts * num, self.policy)

    @torch.no_grad()
    def needs(self, reward: RewardModel) -> tuple[bool, bool]:
        """Whether it looks at the x0 estimate, and at its image."""
        before = self.policy.work
        reward.score(self.noisy(1))
        spent = {kind: num - before[kind] for kind, num in self.policy.work.items()}
        return spent["calls"] > 0, spent["decodes"] > 0

    @torch.no_grad()
    def prepared(self, reward: RewardModel) -> Noisy:
        """One candidate whose estimate and image, as far as the reward looks at them, are made."""
        noisy = self.noisy(1)
        reward.score(noisy)
        return noisy

    def stages(self, reward: RewardModel) -> dict[str, Action]:
        """Its stages for one candidate of every prompt, and all of them together for k."""
        estimates, decodes = self.needs(reward)
        ready = self.prepared(reward)
        found: dict[str, Action] = {STEP: self.step}
        if estimates:
            found[ESTIMATE] = lambda: self.noisy(1).estimate
        if decodes:
            found[DECODE] = lambda: self.policy.decode(ready.estimate[0])
        found[REWARD] = lambda: reward.score(ready)
        found[BATCHED] = lambda: (self.step(), reward.score(self.noisy(self.num)))
        return {name: torch.no_grad()(action) for name, action in found.items()}

    def step(self) -> torch.Tensor:
        """One guided denoising step and its k draws."""
        return self.policy.step(self.latents, self.t, self.s, self.texts).sample(self.num)

    @torch.no_grad()
    def prompt_flops(self, reward: RewardModel) -> int:
        """Of what a reward does once for a prompt that it has not seen."""
        noisy = self.prepared(reward)
        known = flops_of(lambda: reward.score(noisy))
        noisy.prompts = [text for text in prompts(MANY) if text not in self.texts][: len(self.texts)]
        return max(0, flops_of(lambda: reward.score(noisy)) - known) // len(self.texts)

    def unit_flops(self) -> int:
        """Of one denoiser forward pass on one latent, unguided."""
        self.policy.conditioning([""])
        with torch.no_grad():
            return flops_of(lambda: self.policy.predict(self.latents[:1], self.t[:1], [""]))


def parameters_of(reward: RewardModel) -> int:
    """Of the networks it holds, itself or one level below; what it shares with the denoiser counts too."""
    holders = [reward, *_attributes(reward)]
    modules = [part for holder in holders for part in (holder, *_attributes(holder))]
    found = [module for module in modules if isinstance(module, nn.Module)]
    return sum({id(p): p.numel() for module in found for p in module.parameters()}.values())


def _attributes(holder: object) -> list[object]:
    """Of an object that has any, and is no network or policy itself."""
    if isinstance(holder, nn.Module | Policy):
        return []
    return list(getattr(holder, "__dict__", {}).values())
