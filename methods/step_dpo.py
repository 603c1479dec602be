"""Step-level DPO, the algorithm of SPO (arXiv:2406.04314) and LPO (arXiv:2502.01051).

At every denoising step, draw k candidates x_s from the same x_t, score them, keep the best and the worst
where the scorer is sure enough, and take a DPO step on the transition x_t -> x_s. The papers differ in the
scorer and in the numbers: a preset is a subclass that changes defaults. With `inner_steps` (SPO on SDXL) each
candidate goes on by itself for some steps before the comparison, whose verdict is copied to all of them: only
the first step of such a chain is taken from a common x_t.

As in both released codes and unlike plain DPO, the likelihood ratio is clipped to [1 - eps, 1 + eps] before
its log is taken, and log probabilities are averaged over latent elements. Unlike both released codes, the
denoiser runs once per pair, not twice, where winner and loser share x_t, and once on both together elsewhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, NonNegativeInt, PositiveFloat, model_validator

from lpobench import learning, sampling
from lpobench.plugin import MethodSettings, Need, TimestepRange

if TYPE_CHECKING:
    from torch import Tensor

    from lpobench.learning import StepPairs, TransitionPairs
    from lpobench.sampling import Policy
    from lpobench.types import Context, RewardModel

Margin = Annotated[float, Field(ge=0, lt=1)]
Margins = Annotated[
    tuple[Margin, Margin],
    BeforeValidator(lambda value: (value, value) if isinstance(value, int | float) else value),
]
"""At the least and at the most noisy step; a single number is both."""
ScoreAt = Literal["t", "s", "0"]


class StepDPO(MethodSettings):
    """Step-level DPO on the best and the worst of k candidates drawn from the same noisy latents."""

    beta: PositiveFloat
    """DPO temperature, on log ratios averaged over latent elements"""
    min_gap: Margins
    """smallest preference margin kept, at the least and most noisy step; a margin is P(win) - P(lose)"""
    threshold: Literal["std", "variance", "timestep", "constant"] = "std"
    """what the margin grows with, linearly: LPO eq. 12, 16, 17; constant needs two equal margins"""
    num_candidates: Annotated[int, Field(ge=2)] = 4
    """k, candidates drawn at every step"""
    ratio_clip: Annotated[float, Field(gt=0, lt=1)] | None = 0.1
    """eps, how far the likelihood ratio may move from 1 before its gradient stops; none: no limit"""
    inner_steps: NonNegativeInt = 0
    """further steps that every candidate takes on its own before they are compared; the verdict is every step's"""
    timestep_range: TimestepRange = (0, 1000)
    """steps from a t inside, ends included, are scored and trained on; sampling stops after the last"""
    score_at: ScoreAt = "s"
    """timestep the reward is told: "s", the candidates' own; "t", one step noisier; "0", as if they were clean"""

    needs: ClassVar[frozenset[Need]] = frozenset({"prompts", "reward"})

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.threshold == "constant" and self.min_gap[0] != self.min_gap[1]:
            raise ValueError(f"threshold constant needs two equal margins, min_gap is {list(self.min_gap)}")
        return self

    def check(self, policy: Policy, reward: RewardModel | None) -> None:
        """Raises UserError where there is nothing to train on."""
        sampling.stochastic_steps(policy, self.timestep_range)

    def denoiser_calls(self, policy: Policy) -> tuple[int, int]:
        """One per sampled step; policy and reference once each per minibatch."""
        return sampling.stochastic_steps(policy, self.timestep_range)[-1] + 1, 2

    def thresholds(self, policy: Policy) -> dict[str, float]:
        """The margins to exceed, of the first step of every comparison."""
        steps = sampling.stochastic_steps(policy, self.timestep_range)
        gaps = learning.min_gaps(self.threshold, self.min_gap, policy.timesteps, policy.stds)
        compared = range(steps[0], steps[-1] + 1, self.inner_steps + 1)
        return {learning.timestep_name(policy.timesteps[index]): gaps[index] for index in compared}

    def collect(self, ctx: Context) -> StepPairs | TransitionPairs:
        """Sure pairs of one rollout, of all its steps together; possibly none."""
        steps = sampling.stochastic_steps(ctx.policy, self.timestep_range)
        gaps = learning.min_gaps(self.threshold, self.min_gap, ctx.policy.timesteps, ctx.policy.stds)
        return (self._chain_pairs if self.inner_steps else self._fork_pairs)(ctx, steps[0], steps[-1], gaps)

    def loss(self, ctx: Context, rows: StepPairs | TransitionPairs) -> tuple[Tensor, dict[str, Tensor]]:
        """Logs as learning.clipped_dpo."""
        policy = ctx.policy
        if self.inner_steps:
            return learning.transition_dpo(policy, rows, self.beta, self.ratio_clip)
        with policy.reference() as reference:
            ref = reference.step(rows.latents, rows.t, rows.s, rows.prompts)
        new = policy.step(rows.latents, rows.t, rows.s, rows.prompts)
        winner, loser = learning.log_ratio(new, ref, rows.winner), learning.log_ratio(new, ref, rows.loser)
        return learning.clipped_dpo(winner, loser, self.beta, self.ratio_clip)

    def _fork_pairs(self, ctx: Context, first: int, last: int, gaps: list[float]) -> StepPairs:
        """The best and the worst of k candidates at every step."""
        ranked = []
        for fork in sampling.forks(
            ctx.policy,
            ctx.next_prompts(),
            self.num_candidates,
            ctx.generator,
            first=first,
            last=last,
            score_at=self.score_at,
        ):
            scores = ctx.score(fork.noisy, self.num_candidates)
            ranked.append(learning.best_and_worst(fork, scores, gaps[fork.index]))
        return learning.sure_pairs(ranked)

    def _chain_pairs(self, ctx: Context, first: int, last: int, gaps: list[float]) -> TransitionPairs:
        """Every step of the best and the worst of k chains. The margin to exceed is that of their first step."""
        length, pairs = self.inner_steps + 1, []
        chains = sampling.chains(
            ctx.policy,
            ctx.next_prompts(),
            self.num_candidates,
            ctx.generator,
            length=length,
            first=first,
            last=last,
            score_at=self.score_at,
        )
        for chain, gap in zip(chains, gaps[first::length], strict=False):
            scores = ctx.score(chain.noisy, self.num_candidates)
            pairs.append(learning.path_pairs(chain, scores, chain.stochastic, gap))
        return learning.TransitionPairs.cat(pairs)
