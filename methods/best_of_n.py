"""Best of n: the reward is used while sampling, and nothing is trained.

At every denoising step draw n candidates x_s from the same x_t and go on from the one that the reward likes
best: what LPO (arXiv:2502.01051) names as future use of a step reward, with LPO's own forks. A latent reward
costs no denoiser call beyond the plain sampler's. A pixel reward looks at the x0 estimate of every candidate,
which is one call on n times the rows, and the next step reuses the chosen one's: one call more over the run.

`select = "image"` is the plain baseline that this has to beat: n whole images from n noises, the best kept.

Nothing is published to compare with, so eta and the range are choices of this project.
"""

from __future__ import annotations

import sys
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, PositiveInt

from lpobench import sampling
from lpobench.plugin import MethodSettings, Need, TimestepRange

if TYPE_CHECKING:
    import torch
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from lpobench.sampling import Noisy, Policy
    from lpobench.types import RewardModel


class BestOfN(MethodSettings):
    """No training: at every denoising step the reward chooses among n candidates."""

    num_candidates: PositiveInt = 4
    """n; 1 chooses nothing: step by step it is plain sampling at this eta"""
    select: Literal["step", "image"] = "step"
    """step: n candidates at every step, one kept; image: n whole images at eta 0, one kept"""
    eta: Annotated[float, Field(gt=0, le=1)] = 1.0
    """of select step: noise of the candidates; more noise is more choice"""
    timestep_range: TimestepRange = (0, 1000)
    """of select step: steps from a t inside, ends included, have a choice; the others are taken at eta 0"""
    score_at: Literal["t", "s"] = "s"
    """of select step: timestep the reward is told: "s", the candidates' own, or "t", one step noisier"""

    needs: ClassVar[frozenset[Need]] = frozenset({"reward"})
    trains: ClassVar[bool] = False
    samples: ClassVar[bool] = True

    def sample(
        self,
        policy: Policy,
        reward: RewardModel,
        latents: Float[Tensor, "b c h w"],
        prompts: list[str],
        timesteps: Float[Tensor, " i"],
        generators: list[torch.Generator],
    ) -> Float[Tensor, "b c h w"]:
        """A candidate whose score is nan or inf is never chosen; where all are, the first is, and stderr says so."""
        judge = Judge(reward, self.num_candidates)
        sampled = self._by_image if self.select == "image" else self._by_step
        latents = sampled(policy, judge, latents, prompts, timesteps, generators)
        judge.report()
        return latents

    def _by_step(
        self,
        policy: Policy,
        judge: Judge,
        latents: Float[Tensor, "b c h w"],
        prompts: list[str],
        timesteps: Float[Tensor, " i"],
        generators: list[torch.Generator],
    ) -> Float[Tensor, "b c h w"]:
        k, b, estimate = self.num_candidates, len(latents), None
        stochastic = self._stochastic_steps(policy, timesteps)
        for index, (t, s) in enumerate(pairwise(timesteps[:, None].expand(-1, b))):
            x0, eps = policy.denoise(latents, t, prompts) if estimate is None else estimate
            if index not in stochastic:
                latents, estimate = policy.step_from(x0, eps, t, s, eta=0.0).mean, None
                continue
            step = policy.step_from(x0, eps, t, s, self.eta)
            candidates = step.mean + step.std * draws(k, step.mean, generators)
            told = (t if self.score_at == "t" else s).repeat(k)
            noisy = sampling.Noisy(candidates.flatten(0, 1), told, prompts * k, policy)
            chosen = judge.best(noisy)
            latents = pick(candidates, chosen)
            estimate = noisy.estimate_of(chosen) if self.score_at == "s" else None
        return latents

    def _by_image(
        self,
        policy: Policy,
        judge: Judge,
        latents: Float[Tensor, "b c h w"],
        prompts: list[str],
        timesteps: Float[Tensor, " i"],
        generators: list[torch.Generator],
    ) -> Float[Tensor, "b c h w"]:
        """The first of the images is the one plain sampling makes."""
        import torch

        k, b = self.num_candidates, len(latents)
        starts = torch.cat([latents[None], draws(k - 1, latents, generators)]).flatten(0, 1)
        images = sampling.at_eta_0(policy, starts, prompts * k, timesteps)
        chosen = judge.best(sampling.Noisy.finished(images, prompts * k, policy))
        return pick(images.unflatten(0, (k, b)), chosen)

    def _stochastic_steps(self, policy: Policy, timesteps: Float[Tensor, " i"]) -> list[int]:
        """Indices of the steps with a choice."""
        grid = timesteps.cpu()
        std = sampling.transition(policy.backbone.schedule, grid[:-1], grid[1:], policy.rule, self.eta)[2]
        return sampling.steps_inside(grid.tolist(), std.flatten().tolist(), self.timestep_range)


class Judge:
    """Chooses among k candidates, and keeps count of the choices it could not make."""

    def __init__(self, reward: RewardModel, num_candidates: int):
        self.reward, self.k = reward, num_candidates
        self.undecided: list[Bool[Tensor, " b"]] = []

    def best(self, noisy: Noisy) -> Int[Tensor, " b"]:
        """Of each prompt's candidates, which are the slower axis, the one with the highest finite score."""
        scores = self.reward.score(noisy).unflatten(0, (self.k, -1))
        finite = scores.isfinite()
        self.undecided.append(~finite.any(0))
        return scores.where(finite, float("-inf")).argmax(0)

    def report(self) -> None:
        """One line where a choice was between scores none of which was finite. The device is read here, once."""
        lost = int(sum(each.sum() for each in self.undecided))
        if lost:
            print(
                f"best_of_n: {lost} times all {self.k} scores were nan or inf; the first was kept",
                file=sys.stderr,
            )


def draws(
    num: int, like: Float[Tensor, "b c h w"], generators: list[torch.Generator]
) -> Float[Tensor, "{num} b c h w"]:
    """Standard normal numbers for every row, each row's from its own generator, which is on the CPU."""
    import torch

    rows = [torch.randn(num, *like.shape[1:], generator=generator) for generator in generators]
    return torch.stack(rows, 1).to(like)


def pick(candidates: Float[Tensor, "k b c h w"], chosen: Int[Tensor, " b"]) -> Float[Tensor, "b c h w"]:
    """One candidate of each row."""
    import torch

    return candidates[chosen, torch.arange(len(chosen), device=chosen.device)]
