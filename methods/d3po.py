"""Direct Preference for Denoising Diffusion Policy Optimization (D3PO), arXiv:2311.13231.

Two paths per prompt from the same noise; the one whose end scores higher wins every step. Each step is a DPO step
on the ratios to the reference, which are clipped first. Numbers from the released code, made for SD 1.5, 20 steps
at eta 1, guidance 5, learning rate 3e-5.

Differs from the released code: ties are left out; an update mixes steps of all times and prompts, where the code
takes one pair of paths step by step; winners and losers go through the denoiser together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field, PositiveFloat

from lpobench import learning, sampling
from lpobench.plugin import MethodSettings, Need

if TYPE_CHECKING:
    from torch import Tensor

    from lpobench.learning import TransitionPairs
    from lpobench.sampling import Policy
    from lpobench.types import Context, RewardModel


class D3PO(MethodSettings):
    """D3PO, arXiv:2311.13231: DPO on every step of two paths, of which the better end wins."""

    beta: PositiveFloat = 0.1
    """DPO temperature, on log ratios averaged over latent elements"""
    ratio_clip: Annotated[float, Field(gt=0, lt=1)] | None = 0.1
    """eps, how far the likelihood ratio may move from 1 before its gradient stops; none: no limit"""

    needs: ClassVar[frozenset[Need]] = frozenset({"prompts", "reward"})

    def check(self, policy: Policy, reward: RewardModel | None) -> None:
        """Raises UserError where no step has noise."""
        policy.std_range()

    def denoiser_calls(self, policy: Policy) -> tuple[int, int]:
        """One per sampled step; policy and reference once each per minibatch, on winners and losers together."""
        return policy.num_steps, 2

    def collect(self, ctx: Context) -> TransitionPairs:
        """The steps with noise of both paths of every prompt whose scores are finite and differ."""
        path = sampling.paths(ctx.policy, ctx.next_prompts(), ctx.generator, 2, same_start=True)
        return learning.path_pairs(path, ctx.score(path.noisy, 2), path.stochastic)

    def loss(self, ctx: Context, rows: TransitionPairs) -> tuple[Tensor, dict[str, Tensor]]:
        """Logs as learning.clipped_dpo."""
        return learning.transition_dpo(ctx.policy, rows, self.beta, self.ratio_clip)
