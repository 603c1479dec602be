"""Clipped policy gradient on whole trajectories: the algorithm of DDPO, Flow-GRPO, DanceGRPO and MixGRPO.

Sample k paths per prompt, score their ends, standardise the scores, and treat every trained step of a path as an
action that is worth what its end is. The papers differ in numbers: a preset is a subclass that changes defaults.

As in all released codes, ratios are of densities averaged over latent elements, hence the small clip. Unlike
DanceGRPO, which draws the steps to train for each path, all paths of a round are trained on the same steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from lpobench import learning, sampling
from lpobench.plugin import MethodSettings, Need, TimestepRange, UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from lpobench.learning import StepSamples
    from lpobench.sampling import Policy
    from lpobench.types import Context, RewardModel


class PathGradient(MethodSettings):
    """Clipped policy gradient on the steps of whole trajectories, each worth what its end scores."""

    num_paths: Annotated[int, Field(ge=2)]
    """k, trajectories per prompt"""
    normalisation: Literal["group", "batch", "mixed"]
    """mean and std that make scores advantages: the prompt's, the round's, or its mean and the round's std"""
    clip: PositiveFloat = 1e-4
    """how far a ratio, of densities averaged over latent elements, is rewarded for moving from 1"""
    advantage_clip: PositiveFloat = 5.0
    """advantages are limited to +- this"""
    kl_beta: NonNegativeFloat = 0.0
    """weight of KL(policy || reference) of a step, nats per latent element; 0 spares the reference's pass"""
    same_start: bool = False
    """paths of a prompt start from the same noise, and differ by that of their steps only"""
    timestep_range: TimestepRange = (0, 1000)
    """steps from a t inside, ends included, may be trained on; sampling goes on to the end"""
    trained_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """of these steps, those that are trained on in a round; the others are only sampled"""
    trained_steps: Literal["random", "regular"] = "random"
    """which ones, where the share is below 1: drawn anew for every round, or evenly spaced"""
    window: PositiveInt | None = None
    """as many steps of a round have noise and are trained on, all others are deterministic; none: no window"""
    window_schedule: Literal["random", "progressive"] = "progressive"
    """where it is in the timestep_range: anywhere, or sliding from the noisiest step on, then from the start"""
    window_rounds: PositiveInt = 25
    """rounds that a progressive window stays in a place"""
    window_stride: PositiveInt = 1
    """steps that it then moves by"""

    needs: ClassVar[frozenset[Need]] = frozenset({"prompts", "reward"})

    def check(self, policy: Policy, reward: RewardModel | None) -> None:
        """Raises UserError where there is nothing to train on, or no room for the window."""
        usable = sampling.stochastic_steps(policy, self.timestep_range)
        if self.window is not None and self.window > len(usable):
            raise UserError(
                f"window is {self.window}; {len(usable)} stochastic steps start inside "
                f"timestep_range {list(self.timestep_range)}"
            )

    def denoiser_calls(self, policy: Policy) -> tuple[int, int]:
        """One per sampled step; the policy once per minibatch, and the reference where there is a KL."""
        return policy.num_steps, 2 if self.kl_beta else 1

    def collect(self, ctx: Context) -> StepSamples:
        """The trained steps of k paths per prompt. Their advantages are the ends' scores until `complete`."""
        usable = self._usable(ctx)
        steps = self._trained(usable, ctx.generator)
        path = sampling.paths(
            ctx.policy,
            ctx.next_prompts(),
            ctx.generator,
            self.num_paths,
            same_start=self.same_start,
            window=None if self.window is None else (usable[0], usable[-1]),
        )
        return learning.path_samples(path, ctx.score(path.noisy, self.num_paths), steps)

    def complete(self, rows: StepSamples) -> StepSamples:
        """Advantages for scores. Rows without one are dropped: where all scores agree, or one is not finite."""
        return learning.with_advantages(rows, self.num_paths, self.normalisation)

    def loss(self, ctx: Context, rows: StepSamples) -> tuple[Tensor, dict[str, Tensor]]:
        """Logs as learning.policy_gradient."""
        return learning.policy_gradient(
            ctx.policy, rows, clip=self.clip, advantage_clip=self.advantage_clip, kl_beta=self.kl_beta
        )

    def _usable(self, ctx: Context) -> list[int]:
        """Indices of the steps that may be trained on in this round, the same in every shard."""
        usable = sampling.stochastic_steps(ctx.policy, self.timestep_range)
        if self.window is None:
            return usable
        places = len(usable) - self.window + 1
        if self.window_schedule == "random":
            first = _draw(1, places, ctx.generator)[0]
        else:
            first = ctx.round // self.window_rounds * self.window_stride % places
        return usable[first : first + self.window]

    def _trained(self, usable: list[int], generator: torch.Generator) -> list[int]:
        """Those of them that are trained on, the same in every shard."""
        num, of = max(1, round(self.trained_share * len(usable))), len(usable)
        if num == of or self.trained_steps == "regular":
            return [usable[place * of // num] for place in range(num)]
        return [usable[place] for place in sorted(_draw(num, of, generator))]


def _draw(num: int, of: int, generator: torch.Generator) -> list[int]:
    """`num` of the numbers below `of`, each at most once."""
    import torch

    return torch.randperm(of, generator=generator, device=generator.device)[:num].tolist()
