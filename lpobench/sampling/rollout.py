"""Sampling that keeps what preference methods need: several candidates per step, or whole trajectories.

Neither loop reads anything back from the device: which steps are stochastic and where to stop is known
beforehand. Both run under the caller's grad mode; the training loop calls them under no_grad.

Both roll out only the policy's shard of the prompts they are given, on the noise that a single shard would
use: noise is drawn for all prompts, and what belongs to other shards is dropped.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lpobench.launch.ranks import part
from lpobench.sampling.policy import Policy
from lpobench.sampling.step import StepDistribution


@dataclass
class Noisy:
    """Noisy latents to be scored. The clean estimate and its image are made on first use, once.

    Latent rewards read `latents` and cost nothing here; pixel rewards read `images` and cost one denoiser
    call and one decode.
    """

    latents: Float[Tensor, "n c h w"]
    t: Float[Tensor, " n"]
    prompts: list[str]
    policy: Policy
    _estimate: tuple[Tensor, Tensor] | None = field(default=None, init=False, repr=False)

    @property
    def estimate(self) -> tuple[Float[Tensor, "n c h w"], Float[Tensor, "n c h w"]]:
        """(x0, eps) as the policy sees them from here."""
        if self._estimate is None:
            self._estimate = self.policy.denoise(self.latents, self.t, self.prompts)
        return self._estimate

    @cached_property
    def images(self) -> Float[Tensor, "n 3 H W"]:
        """Decoded x0 estimate, in [0, 1]."""
        return self.policy.backbone.decode(self.estimate[0])


@dataclass(frozen=True)
class Fork:
    """k candidates x_s drawn from one x_t for each of b prompts; in `noisy`, k is the slower axis."""

    index: int
    latents: Float[Tensor, "b c h w"]
    t: Float[Tensor, " b"]
    s: Float[Tensor, " b"]
    step: StepDistribution
    candidates: Float[Tensor, "k b c h w"]
    noisy: Noisy
    prompts: list[str]

    @property
    def std(self) -> Float[Tensor, " b"]:
        """Step noise, positive."""
        return self.step.std.flatten()

    @cached_property
    def logprobs(self) -> Float[Tensor, "k b"]:
        """Of the candidates as stored, under the policy that drew them, nats per latent element."""
        return torch.stack([self.step.logprob(x) for x in self.candidates.to(self.step.mean.dtype)])


@dataclass(frozen=True)
class Path:
    """Whole trajectories, k per prompt: latents[i] -> latents[i + 1] is the step timesteps[i] -> timesteps[i
    + 1].
    """

    timesteps: tuple[float, ...]
    stds: tuple[float, ...]
    """One per step; a step of std 0 has no likelihood and is not to be trained on."""
    latents: Float[Tensor, "i k b c h w"]
    logprobs: Float[Tensor, "i-1 k b"]
    """Nats per latent element; 0 at deterministic steps."""
    prompts: list[str]


def forks(
    policy: Policy,
    prompts: list[str],
    num_candidates: int,
    generator: torch.Generator,
    *,
    first: int = 0,
    last: int | None = None,
    score_at: Literal["t", "s"] = "s",
) -> Iterator[Fork]:
    """Denoise from pure noise, forking into k candidates at each stochastic step and following a random one.

    Steps before index `first` are sampled plainly. The rollout ends with the fork at `last` (default: the
    last stochastic step); no denoiser call is spent beyond it. `score_at` is the timestep candidates are
    scored at: "s", their own, or "t", one step noisier, as in LPO's released code. When a reward has asked
    for the estimate at s, the next step reuses it.
    """
    noise = _Noise.of(policy, len(prompts), generator)
    prompts = prompts[noise.mine]
    k, b = num_candidates, len(prompts)
    latents, grid = noise.start(policy, 1)[0], _grid(policy)
    rows = torch.arange(b, device=latents.device)
    stochastic = [i for i, std in enumerate(policy.stds) if std > 0 and (last is None or i <= last)]
    estimate = None
    for index in range(stochastic[-1] + 1 if stochastic else 0):
        t, s = grid[index].expand(b), grid[index + 1].expand(b)
        x0, eps = policy.denoise(latents, t, prompts) if estimate is None else estimate
        step = policy.step_from(x0, eps, t, s)
        if index < first or policy.stds[index] == 0:
            latents, estimate = noise.sample(step, 1)[0].to(policy.latent_dtype), None
            continue
        candidates = noise.sample(step, k).to(policy.latent_dtype)
        noisy = Noisy(candidates.flatten(0, 1), (t if score_at == "t" else s).repeat(k), prompts * k, policy)
        yield Fork(index, latents, t, s, step, candidates, noisy, prompts)

        chosen = noise.choose(k)
        latents, estimate = candidates[chosen, rows], None
        if noisy._estimate is not None and score_at == "s":
            x0, eps = (part.unflatten(0, (k, b))[chosen, rows] for part in noisy._estimate)
            estimate = x0, eps


def paths(policy: Policy, prompts: list[str], generator: torch.Generator, num_paths: int) -> Path:
    """Sample `num_paths` whole trajectories per prompt, each from its own noise."""
    noise = _Noise.of(policy, len(prompts), generator)
    prompts = prompts[noise.mine]
    k, b = num_paths, len(prompts)
    latents, grid = noise.start(policy, k).flatten(0, 1), _grid(policy)
    visited, logprobs = [latents], []
    for index, std in enumerate(policy.stds):
        t, s = grid[index].expand(k * b), grid[index + 1].expand(k * b)
        step = policy.step(latents, t, s, prompts * k)
        latents = noise.sample_paths(step, k).to(policy.latent_dtype)
        logprobs.append(step.logprob(latents.to(step.mean.dtype)) if std > 0 else torch.zeros_like(t))
        visited.append(latents)
    return Path(
        policy.timesteps,
        policy.stds,
        torch.stack(visited).unflatten(1, (k, b)),
        torch.stack(logprobs).unflatten(1, (k, b)),
        prompts,
    )


@dataclass(frozen=True)
class _Noise:
    """Random numbers of a rollout: drawn for all `num` prompts, kept for those that are `mine`."""

    generator: torch.Generator
    device: torch.device
    num: int
    mine: slice

    @classmethod
    def of(cls, policy: Policy, num: int, generator: torch.Generator) -> "_Noise":
        """Draws start on the policy's device, whichever the generator is on."""
        device = policy.backbone.device
        return cls(_on(device, generator), device, num, part(num, *policy.shard))

    def start(self, policy: Policy, k: int) -> Float[Tensor, "{k} b c h w"]:
        """Pure noise, as stored."""
        return self._normal(k, policy.backbone.latent_shape, torch.float32).to(policy.latent_dtype)

    def sample(self, step: StepDistribution, k: int) -> Float[Tensor, "{k} b c h w"]:
        """k draws of each row of a step, whose rows are prompts."""
        return step.mean + step.std * self._normal(k, step.mean.shape[1:], step.mean.dtype)

    def sample_paths(self, step: StepDistribution, k: int) -> Float[Tensor, "n c h w"]:
        """One draw of each row of a step, whose rows are k times the prompts."""
        return step.mean + step.std * self._normal(k, step.mean.shape[1:], step.mean.dtype).flatten(0, 1)

    def choose(self, k: int) -> Int[Tensor, " b"]:
        """A candidate for each prompt."""
        return torch.randint(k, (self.num,), generator=self.generator, device=self.device)[self.mine]

    def _normal(self, k: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        size = (k, self.num, *shape)
        return torch.randn(size, generator=self.generator, device=self.device, dtype=dtype)[:, self.mine]


def _grid(policy: Policy) -> Float[Tensor, " i"]:
    """The timesteps, on the device."""
    return policy.backbone.schedule.timesteps(policy.num_steps).to(policy.backbone.device)


def _on(device: torch.device, generator: torch.Generator) -> torch.Generator:
    """A generator on the device, seeded from the given one: noise drawn on the CPU would be copied at every
    step.
    """
    if generator.device.type == device.type:
        return generator
    seed = torch.randint(2**62, (), generator=generator, device=generator.device)
    return torch.Generator(device).manual_seed(seed.item())
