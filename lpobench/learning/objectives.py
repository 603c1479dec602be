"""Loss functions of the papers, on log ratios in nats per latent element. Pure: per row in, scalar out."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

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


def clipped_policy_loss(
    ratio: Float[Tensor, " n"], advantage: Float[Tensor, " n"], eps: float
) -> Float[Tensor, ""]:
    """PPO's clipped surrogate (eq. 7), negated for descent, mean over rows."""
    return torch.maximum(-advantage * ratio, -advantage * ratio.clamp(1 - eps, 1 + eps)).mean()


def gaussian_kl(new: StepDistribution, reference: StepDistribution) -> Float[Tensor, " n"]:
    """KL(new || reference), nats per latent element, for equal std > 0."""
    return ((new.mean - reference.mean) ** 2 / (2 * new.std**2)).flatten(1).mean(1)
