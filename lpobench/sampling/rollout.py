"""Sampling that keeps what preference methods need: several candidates per step, or whole trajectories.

Neither loop reads anything back from the device: which steps are stochastic and where to stop is known
beforehand. Both run under the caller's grad mode; the training loop calls them under no_grad.

Both roll out only the policy's shard of the prompts they are given, on the noise that a single shard would
use: noise is drawn for all prompts, and what belongs to other shards is dropped.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lpobench.sampling.noise import Noise
from lpobench.sampling.policy import Policy
from lpobench.sampling.step import StepDistribution


@dataclass
class Noisy:
    """Latents to be scored, noisy or finished. The clean estimate and its image are made on first use, once.

    Latent rewards read `latents` and cost nothing here; pixel rewards read `images` and cost one denoiser
    call, unless the latents are finished, and one decode.
    """

    latents: Float[Tensor, "n c h w"]
    t: Float[Tensor, " n"]
    prompts: list[str]
    policy: Policy
    clean: bool = False
    """The latents are finished: they are their own estimate, and t is 0."""
    _estimate: tuple[Tensor, Tensor] | None = field(default=None, init=False, repr=False)

    @classmethod
    def finished(cls, latents: Float[Tensor, "n c h w"], prompts: list[str], policy: Policy) -> "Noisy":
        """Latents without noise, at t = 0."""
        return cls(latents, torch.zeros(len(latents), device=latents.device), prompts, policy, clean=True)

    @classmethod
    def of_images(
        cls,
        images: Float[Tensor, "n 3 H W"],
        prompts: list[str],
        policy: Policy,
        t: float | None = None,
        generator: torch.Generator | None = None,
    ) -> "Noisy":
        """Images in [0, 1] through the VAE's encoder; noised to timestep t, or finished where t is None.

        A reward that reads images sees these very ones, not their reconstructions, where t is None.
        """
        latents = policy.backbone.encode(images).to(policy.latent_dtype)
        if t is None:
            noisy = cls.finished(latents, prompts, policy)
            noisy.images = images
            return noisy
        timesteps = torch.full((len(latents),), float(t), device=latents.device)
        alpha, sigma = (level.view(-1, 1, 1, 1) for level in policy.backbone.schedule.levels(timesteps))
        noise = torch.randn(latents.shape, generator=generator, dtype=torch.float32)
        noised = alpha * latents + sigma * noise.to(latents.device)
        return cls(noised.to(policy.latent_dtype), timesteps, prompts, policy)

    @property
    def estimate(self) -> tuple[Float[Tensor, "n c h w"], Float[Tensor, "n c h w"]]:
        """(x0, eps) as the policy sees them from here."""
        if self._estimate is None:
            self._estimate = (
                (self.latents, torch.zeros_like(self.latents))
                if self.clean
                else self.policy.denoise(self.latents, self.t, self.prompts)
            )
        return self._estimate

    def estimate_of(
        self, chosen: Int[Tensor, " b"]
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"]] | None:
        """(x0, eps) of one of each prompt's candidates, which are the slower axis; None if nobody asked for any."""
        if self._estimate is None:
            return None
        rows = torch.arange(len(chosen), device=chosen.device)
        x0, eps = (part.unflatten(0, (-1, len(chosen)))[chosen, rows] for part in self._estimate)
        return x0, eps

    @cached_property
    def images(self) -> Float[Tensor, "n 3 H W"]:
        """Decoded x0 estimate, in [0, 1]."""
        return self.policy.decode(self.estimate[0])


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
    """Trajectories, k per prompt: latents[i] -> latents[i + 1] is the step timesteps[i] -> timesteps[i + 1]. In
    `noisy`, k is the slower axis.
    """

    timesteps: tuple[float, ...]
    stds: tuple[float, ...]
    """One per step; a step of std 0 has no likelihood and is not to be trained on."""
    latents: Float[Tensor, "i k b c h w"]
    logprobs: Float[Tensor, "i-1 k b"]
    """Nats per latent element; 0 at deterministic steps."""
    noisy: Noisy
    """What a reward looks at: the last latents."""
    prompts: list[str]

    @property
    def stochastic(self) -> list[int]:
        """Steps that have a likelihood."""
        return [index for index, std in enumerate(self.stds) if std > 0]


def forks(
    policy: Policy,
    prompts: list[str],
    num_candidates: int,
    generator: torch.Generator,
    *,
    first: int = 0,
    last: int | None = None,
    score_at: Literal["t", "s", "0"] = "s",
) -> Iterator[Fork]:
    """Denoise from pure noise, forking into k candidates at each stochastic step and following a random one.

    Steps before index `first` are sampled plainly. The rollout ends with the fork at `last` (default: the
    last stochastic step); no denoiser call is spent beyond it. `score_at` is the timestep candidates are
    scored at: "s", their own; "t", one step noisier, as in LPO's released code; or "0" for all, as in LPO's ablation.
    When a reward has asked for the estimate at s, the next step reuses it.
    """
    noise = Noise.of(policy, len(prompts), generator)
    prompts = prompts[noise.mine]
    k, b = num_candidates, len(prompts)
    latents, grid = noise.start(policy, 1)[0], policy.grid
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
        told = {"t": t, "s": s, "0": torch.zeros_like(s)}
        noisy = Noisy(candidates.flatten(0, 1), told[score_at].repeat(k), prompts * k, policy)
        yield Fork(index, latents, t, s, step, candidates, noisy, prompts)

        chosen = noise.choose(k)
        latents = candidates[chosen, rows]
        estimate = noisy.estimate_of(chosen) if score_at == "s" else None


def paths(
    policy: Policy,
    prompts: list[str],
    generator: torch.Generator,
    num_paths: int,
    *,
    same_start: bool = False,
    window: tuple[int, int] | None = None,
) -> Path:
    """Sample `num_paths` whole trajectories per prompt, each from its own noise, or all from the same.

    `window` holds the first and the last step that stay stochastic; the others are taken at eta 0 (MixGRPO).
    """
    noise = Noise.of(policy, len(prompts), generator)
    prompts, k = prompts[noise.mine], num_paths
    start = noise.start(policy, 1).repeat(k, 1, 1, 1, 1) if same_start else noise.start(policy, k)
    first, last = window or (0, policy.num_steps - 1)
    stds = tuple(std if first <= index <= last else 0.0 for index, std in enumerate(policy.stds))
    latents, logprobs = walk(policy, noise, start, prompts, range(policy.num_steps), stds)
    noisy = Noisy.finished(latents[-1].flatten(0, 1), prompts * k, policy)
    return Path(policy.timesteps, stds, latents, logprobs, noisy, prompts)


def walk(
    policy: Policy,
    noise: Noise,
    latents: Float[Tensor, "k b c h w"],
    prompts: list[str],
    steps: Sequence[int],
    stds: Sequence[float],
    estimate: tuple[Float[Tensor, "n c h w"], Float[Tensor, "n c h w"]] | None = None,
) -> tuple[Float[Tensor, "i k b c h w"], Float[Tensor, "i-1 k b"]]:
    """All latents on the way of the given steps, and each step's log density as in Path. A step whose std is 0 is
    taken at eta 0. `estimate` is (x0, eps) at the first, where that is known.
    """
    (k, b), grid, rows = latents.shape[:2], policy.grid, latents.flatten(0, 1)
    visited, logprobs = [rows], []
    for index in steps:
        t, s = grid[index].expand(k * b), grid[index + 1].expand(k * b)
        x0, eps = policy.denoise(rows, t, prompts * k) if estimate is None else estimate
        estimate, noisy = None, stds[index] > 0
        step = policy.step_from(x0, eps, t, s, None if noisy else 0.0)
        rows = (noise.sample_paths(step, k) if noisy else step.mean).to(policy.latent_dtype)
        logprobs.append(step.logprob(rows.to(step.mean.dtype)) if noisy else torch.zeros_like(t))
        visited.append(rows)
    return torch.stack(visited).unflatten(1, (k, b)), torch.stack(logprobs).unflatten(1, (k, b))
