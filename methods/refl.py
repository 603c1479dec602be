"""Reward feedback learning through one step: the reward's own gradient, ReFL (arXiv:2304.05977, algorithm 1)
with a step reward in place of a judge of images.

Roll out without gradients to x_t, differentiate one denoising step, and climb the score of what it leads to:
of x_s itself where the reward reads noisy latents, so that no image is decoded and any step can be trained,
or of the clean estimate, as ReFL and IterComp do on late steps. Nothing is backpropagated through the chain.

Differs from ReFL: the steps are stochastic, x_s = mean + std * noise with the noise drawn beforehand; every x_t
that a rollout passes can be a row, not one of them alone (`num_steps`); a closed-form KL to the reference takes
the place of ReFL's pre-training loss. LPO names this use of its reward model as future work: no number of it is
published, and the defaults are this project's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from lpobench import learning, sampling
from lpobench.plugin import MethodSettings, Need, TimestepRange, UserError

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

    from lpobench.learning import NoisySteps
    from lpobench.sampling import Noisy, Policy
    from lpobench.types import Context, RewardModel


class ReFL(MethodSettings):
    """Reward feedback learning: the gradient of a step reward through one denoising step."""

    target: Literal["step", "estimate"] = "step"
    """what is scored: step, x_s at its own time; estimate, the clean x0 seen from x_t, as finished latents"""
    timestep_range: TimestepRange = (0, 1000)
    """steps from a t inside, ends included, are trained on; sampling stops where the last begins"""
    num_steps: PositiveInt | None = None
    """of a rollout that are trained on, drawn anew for every round; none: all in the range"""
    hinge: float | None = None
    """scores above are not raised further: the loss is relu(hinge - score); none: it is -score"""
    scale: PositiveFloat = 1.0
    """of that loss"""
    kl_beta: NonNegativeFloat = 0.0
    """weight of KL(policy || reference) of a step, nats per latent element; 0 spares the reference's pass"""

    needs: ClassVar[frozenset[Need]] = frozenset({"prompts", "reward"})

    def check(self, policy: Policy, reward: RewardModel | None) -> None:
        """Raises UserError where the reward has no gradient, or the range no step."""
        if not reward.differentiable:
            raise UserError(
                f"the reward has to be differentiable for this method, {type(reward).__name__} is not; lrm is"
            )
        sampling.stochastic_steps(policy, self.timestep_range)

    def denoiser_calls(self, policy: Policy) -> tuple[int, int]:
        """At most as many as there are steps before the last x_t; policy, and reference where there is a KL."""
        return sampling.stochastic_steps(policy, self.timestep_range)[-1], 2 if self.kl_beta else 1

    def collect(self, ctx: Context) -> NoisySteps:
        """x_t of every prompt at the round's steps."""
        import torch

        steps = sampling.stochastic_steps(ctx.policy, self.timestep_range)
        if self.num_steps is not None:
            drawn = torch.randperm(len(steps), generator=ctx.generator)[: self.num_steps]
            steps = [steps[index] for index in drawn.tolist()]
        visits = sampling.visits(ctx.policy, ctx.next_prompts(), ctx.generator, steps)
        return learning.NoisySteps.cat(
            [learning.NoisySteps(v.latents, v.t, v.s, v.noise, v.prompts) for v in visits]
        )

    def loss(self, ctx: Context, rows: NoisySteps) -> tuple[Tensor, dict[str, Tensor]]:
        """Logs: score (mean of the finite ones), saturated (rows whose score is above the hinge), and kl."""
        policy = ctx.policy
        x0, eps = policy.denoise(rows.latents, rows.t, rows.prompts)
        new = policy.step_from(x0, eps, rows.t, rows.s)
        if self.target == "estimate":
            noisy = sampling.Noisy.finished(x0, rows.prompts, policy)
        else:
            noisy = sampling.Noisy(new.mean + new.std * rows.noise, rows.s, rows.prompts, policy)
        scores, known = climbable(ctx, noisy)
        logs = {"score": scores.detach().sum() / known.sum().clamp(min=1)}
        if self.hinge is None:
            losses = -self.scale * scores
        else:
            losses = self.scale * (self.hinge - scores).relu()
            logs["saturated"] = (scores >= self.hinge).float().mean()
        if self.kl_beta:
            with policy.reference() as reference:
                ref = reference.step(rows.latents, rows.t, rows.s, rows.prompts)
            kl = learning.gaussian_kl(new, ref)
            losses, logs["kl"] = losses + self.kl_beta * kl, kl.mean().detach()
        return losses.where(known, 0).mean(), logs


def climbable(ctx: Context, noisy: Noisy) -> tuple[Float[Tensor, " n"], Bool[Tensor, " n"]]:
    """Scores, and which of them are finite. The others are 0 and pull at nothing: a nan also kills the gradient
    of everything that shares a weight with it, unless it is stopped at the latents, where rows are still apart.
    """
    scores = ctx.score(noisy)[0]
    known = scores.isfinite()
    if noisy.latents.requires_grad:
        rows = known.view(-1, 1, 1, 1)
        noisy.latents.register_hook(lambda gradient: gradient.where(rows, 0))
    return scores.where(known, 0), known
