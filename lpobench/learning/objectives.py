"""Loss functions of the papers, on log ratios in nats per latent element. Pure but for `denoising_errors`,
which runs the denoiser: per row in, scalar out."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lpobench.sampling.policy import Policy
from lpobench.sampling.step import StepDistribution


def log_ratio(
    new: StepDistribution, old: StepDistribution, x: Float[Tensor, "n c h w"]
) -> Float[Tensor, " n"]:
    """log pi_new(x) - log pi_old(x), nats per latent element, for two steps of equal std > 0.

    The difference of squares is factored, so that no two large log densities are subtracted: equal means give
    exactly 0.
    """
    moved = new.mean - old.mean
    return (moved * (x - (new.mean + old.mean) / 2) / new.std**2).flatten(1).mean(1)


def clip_log_ratio(value: Float[Tensor, " n"], eps: float) -> Float[Tensor, " n"]:
    """Log of the ratio clipped to [1 - eps, 1 + eps]; no gradient outside, in either direction (SPO and LPO
    code).
    """
    return value.clamp(math.log(1 - eps), math.log(1 + eps))


def dpo_loss(winner: Float[Tensor, " n"], loser: Float[Tensor, " n"], beta: float) -> Float[Tensor, ""]:
    """Mean of -log sigmoid(beta * (winner - loser)) over log ratios to the reference (DPO eq. 7)."""
    return -F.logsigmoid(beta * (winner - loser)).mean()


def clipped_dpo(
    winner: Float[Tensor, " n"], loser: Float[Tensor, " n"], beta: float, eps: float | None
) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
    """DPO on log ratios to the reference whose ratios are first clipped to [1 - eps, 1 + eps], as D3PO, SPO and
    LPO release it; eps None: no clip.

    Logs, before the clip: accuracy (winner's ratio above loser's), margin (beta times their log's difference),
    the mean ratios; and clipfrac, the pairs with a clipped ratio.
    """
    logs = {
        "accuracy": (winner > loser).float().mean(),
        "margin": beta * (winner - loser).mean().detach(),
        "ratio_winner": winner.exp().mean().detach(),
        "ratio_loser": loser.exp().mean().detach(),
    }
    if eps is not None:
        unclipped = winner, loser
        winner, loser = (clip_log_ratio(ratio, eps) for ratio in unclipped)
        logs["clipfrac"] = ((winner != unclipped[0]) | (loser != unclipped[1])).float().mean()
    return dpo_loss(winner, loser, beta), logs


def clipped_policy_loss(
    ratio: Float[Tensor, " n"], advantage: Float[Tensor, " n"], eps: float
) -> Float[Tensor, ""]:
    """PPO's clipped surrogate (eq. 7), negated for descent, mean over rows."""
    return torch.maximum(-advantage * ratio, -advantage * ratio.clamp(1 - eps, 1 + eps)).mean()


def gaussian_kl(new: StepDistribution, reference: StepDistribution) -> Float[Tensor, " n"]:
    """KL(new || reference), nats per latent element, for equal std > 0."""
    return ((new.mean - reference.mean) ** 2 / (2 * new.std**2)).flatten(1).mean(1)


def denoising_errors(
    policy: Policy,
    x0: Float[Tensor, "n c h w"],
    noise: Float[Tensor, "n c h w"],
    t: Float[Tensor, " n"],
    prompts: list[str],
) -> Float[Tensor, " n"]:
    """Mean over c, h, w of (output - target)^2 at x_t, in float32 or wider, without guidance: one forward pass."""
    schedule = policy.backbone.schedule
    alpha, sigma = (level.view(-1, 1, 1, 1) for level in schedule.levels(t))
    output = policy.predict(alpha * x0 + sigma * noise, t, prompts)
    return (output - schedule.target(x0, noise, t)).square().flatten(1).mean(1)
