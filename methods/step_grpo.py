"""Step-wise GRPO, the policy-gradient counterpart that the LPO paper compares with (arXiv:2502.01051, eq. 13).

At every denoising step, draw k candidates x_s from the same x_t, score them, standardise the scores within the
group, and take a clipped policy-gradient step on the transition x_t -> x_s, with a KL to the reference. k, clip and
KL weight are the paper's; no code is released, and the paper says neither how log probabilities are reduced nor how
the KL is estimated.

Inferred: log probabilities are averaged over latent elements, as in LPO's code; the KL is that of the two Gaussian
steps, in closed form and averaged alike; the group's standard deviation has 1e-6 added; rows are used once. The
candidates of a group share x_t, so that a group costs one policy and one reference pass. A group whose scores all
agree has no advantage and is left out, its KL with it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeFloat

from lpobench import learning, sampling
from lpobench.plugin import MethodSettings, Need, TimestepRange

if TYPE_CHECKING:
    from torch import Tensor

    from lpobench.learning import StepSamples
    from lpobench.sampling import Policy
    from lpobench.types import Context, RewardModel


class StepGRPO(MethodSettings):
    """Step-wise GRPO, arXiv:2502.01051 eq. 13: clipped policy gradient inside the forks of every step."""

    num_candidates: Annotated[int, Field(ge=2)] = 4
    """k, candidates drawn at every step: the group"""
    clip: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """how far a ratio, of densities averaged over latent elements, is rewarded for moving from 1"""
    kl_beta: NonNegativeFloat = 0.1
    """weight of KL(policy || reference) of a step, nats per latent element; 0 spares the reference's pass"""
    timestep_range: TimestepRange = (0, 1000)
    """steps from a t inside, ends included, are scored and trained on; sampling stops after the last"""
    score_at: Literal["t", "s"] = "s"
    """timestep the reward is told: "s", the candidates' own, or "t", one step noisier"""

    needs: ClassVar[frozenset[Need]] = frozenset({"prompts", "reward"})

    def check(self, policy: Policy, reward: RewardModel | None) -> None:
        """Raises UserError where there is nothing to train on."""
        sampling.stochastic_steps(policy, self.timestep_range)

    def denoiser_calls(self, policy: Policy) -> tuple[int, int]:
        """One per sampled step; the policy once per minibatch of groups, and the reference where there is a KL."""
        return sampling.stochastic_steps(policy, self.timestep_range)[-1] + 1, 2 if self.kl_beta else 1

    def collect(self, ctx: Context) -> StepSamples:
        """The groups of one rollout whose scores are finite and differ; possibly none."""
        steps = sampling.stochastic_steps(ctx.policy, self.timestep_range)
        groups = []
        for fork in sampling.forks(
            ctx.policy,
            ctx.next_prompts(),
            self.num_candidates,
            ctx.generator,
            first=steps[0],
            last=steps[-1],
            score_at=self.score_at,
        ):
            scores = ctx.score(fork.noisy, self.num_candidates)
            groups.append(learning.fork_samples(fork, learning.standardised(scores)))
        return learning.worth_training(learning.StepSamples.cat(groups))

    def loss(self, ctx: Context, rows: StepSamples) -> tuple[Tensor, dict[str, Tensor]]:
        """Logs as learning.policy_gradient."""
        return learning.policy_gradient(
            ctx.policy, rows, clip=self.clip, advantage_clip=math.inf, kl_beta=self.kl_beta
        )
