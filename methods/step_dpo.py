"""Step-level DPO, the algorithm of SPO (arXiv:2406.04314) and LPO (arXiv:2502.01051).

At every denoising step, draw k candidates x_s from the same x_t, score them, keep the best and the worst
where the scorer is sure enough, and take a DPO step on the transition x_t -> x_s. The papers differ in the
scorer and in the numbers: a preset is a subclass that changes defaults.

As in both released codes and unlike plain DPO, the likelihood ratio is clipped to [1 - eps, 1 + eps] before
its log is taken, and log probabilities are averaged over latent elements. Unlike both released codes, the
denoiser runs once per pair, not twice: winner and loser share x_t.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import Field, PositiveFloat, model_validator

from lpobench import learning, sampling
from lpobench.plugin import MethodSettings, Need, UserError

if TYPE_CHECKING:
    from torch import Tensor

    from lpobench.learning import StepPairs
    from lpobench.sampling import Policy
    from lpobench.types import Context

Margin = Annotated[float, Field(ge=0, lt=1)]


class StepDPO(MethodSettings):
    """Step-level DPO on the best and the worst of k candidates drawn from the same noisy latents."""

    beta: PositiveFloat
    """DPO temperature, on log ratios averaged over latent elements"""
    min_gap: tuple[Margin, Margin]
    """smallest preference margin kept, at the least and most noisy step; a margin is P(win) - P(lose)"""
    threshold: Literal["std", "variance", "timestep", "constant"] = "std"
    """what the margin grows with, linearly: LPO eq. 12, 16, 17; constant needs two equal margins"""
    num_candidates: Annotated[int, Field(ge=2)] = 4
    """k, candidates drawn at every step"""
    ratio_clip: Annotated[float, Field(gt=0, lt=1)] | None = 0.1
    """eps, how far the likelihood ratio may move from 1 before its gradient stops; none: no limit"""
    timestep_range: tuple[float, float] = (0, 1000)
    """steps from a t inside, ends included, are scored and trained on; sampling stops after the last"""
    score_at: Literal["t", "s"] = "s"
    """timestep the reward is told: "s", the candidates' own, or "t", one step noisier"""

    needs: ClassVar[frozenset[Need]] = frozenset({"prompts", "reward"})

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.threshold == "constant" and self.min_gap[0] != self.min_gap[1]:
            raise ValueError(f"threshold constant needs two equal margins, min_gap is {list(self.min_gap)}")
        if self.timestep_range[0] > self.timestep_range[1]:
            raise ValueError(
                f"timestep_range is {list(self.timestep_range)}; the smaller timestep comes first"
            )
        return self

    def denoiser_calls(self, policy: Policy) -> tuple[int, int]:
        """One per sampled step; policy and reference once each per minibatch."""
        return self._trained_steps(policy)[1] + 1, 2

    def collect(self, ctx: Context) -> StepPairs:
        """Sure pairs of one rollout, of all its steps together; possibly none."""
        policy = ctx.policy
        first, last = self._trained_steps(policy)
        gaps = learning.min_gaps(self.threshold, self.min_gap, policy.timesteps, policy.stds)
        ranked = []
        for fork in sampling.forks(
            policy,
            ctx.next_prompts(),
            self.num_candidates,
            ctx.generator,
            first=first,
            last=last,
            score_at=self.score_at,
        ):
            scores = ctx.reward.score(fork.noisy).unflatten(0, (self.num_candidates, -1))
            ranked.append(learning.best_and_worst(fork, scores, gaps[fork.index]))
        return learning.sure_pairs(ranked)

    def loss(self, policy: Policy, rows: StepPairs) -> tuple[Tensor, dict[str, Tensor]]:
        """Also logs, before the clip: accuracy (winner's ratio above loser's), margin (beta times their log's
        difference), the mean ratios; and clipfrac, the pairs with a clipped ratio."""
        with policy.reference() as reference:
            ref = reference.step(rows.latents, rows.t, rows.s, rows.prompts)
        new = policy.step(rows.latents, rows.t, rows.s, rows.prompts)
        winner, loser = learning.log_ratio(new, ref, rows.winner), learning.log_ratio(new, ref, rows.loser)
        logs = {
            "accuracy": (winner > loser).float().mean(),
            "margin": self.beta * (winner - loser).mean().detach(),
            "ratio_winner": winner.exp().mean().detach(),
            "ratio_loser": loser.exp().mean().detach(),
        }
        if self.ratio_clip is not None:
            unclipped = winner, loser
            winner, loser = (learning.clip_log_ratio(ratio, self.ratio_clip) for ratio in unclipped)
            logs["clipfrac"] = ((winner != unclipped[0]) | (loser != unclipped[1])).float().mean()
        return learning.dpo_loss(winner, loser, self.beta), logs

    def _trained_steps(self, policy: Policy) -> tuple[int, int]:
        """Indices of the first and the last sampling step to score and train on."""
        low, high = self.timestep_range
        policy.std_range()  # an eta of 0 is the better complaint
        steps = zip(policy.timesteps, policy.stds, strict=False)
        inside = [index for index, (t, std) in enumerate(steps) if low <= t <= high and std > 0]
        if not inside:
            grid = ", ".join(f"{t:g}" for t in policy.timesteps[:-1])
            raise UserError(
                f"timestep_range {[low, high]} holds no stochastic sampling step; steps start at {grid}"
            )
        return inside[0], inside[-1]
