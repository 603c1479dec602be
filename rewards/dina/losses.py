"""What a pair's two scores cost, by label and noise level (DiNa-LRM sec. 4; released code for the constants).

    thurstone   p = Phi((r_w - r_l) / sqrt(2 s^2)),  s^2 = 2 sigma^2 + 0.05 per image;  loss = 1 - sqrt(p)

A margin in noise is worth less evidence, so noisy pairs neither saturate nor dominate. With a label q between 0 and
1 (ties; the released data has none) it is the fidelity loss it comes from, 1 - sqrt(q p) - sqrt((1 - q)(1 - p)).
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Loss = Literal["thurstone", "thurstone-constant", "bt", "bt-margin"]

SLOPE, CLEAN_VARIANCE, CONSTANT_VARIANCE = 2.0, 0.05, 0.5
MARGIN, EPSILON = 1.0, 1e-6


def comparison_std(kind: Loss, sigma: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """What a margin is measured in. thurstone: 0.316 clean, 2.025 in pure noise; the others: 1."""
    match kind:
        case "thurstone":
            variance = SLOPE * sigma**2 + CLEAN_VARIANCE
        case "thurstone-constant":
            variance = torch.full_like(sigma, CONSTANT_VARIANCE)
        case "bt" | "bt-margin":
            return torch.ones_like(sigma)
    return (2 * variance + EPSILON).sqrt()


def pair_loss(
    kind: Loss,
    score_0: Float[Tensor, " n"],
    score_1: Float[Tensor, " n"],
    label_0: Float[Tensor, " n"],
    weight: Float[Tensor, " n"],
) -> Float[Tensor, ""]:
    """Of scores in units of `comparison_std`, summed with weights, which should add up to 1 over a batch.

    `label_0` is the probability that image 0 is the better one; a tie is 0.5.
    """
    margin = score_0 - score_1
    match kind:
        case "thurstone" | "thurstone-constant":
            loss = _fidelity(torch.special.ndtr(margin), torch.special.ndtr(-margin), label_0)
        case "bt":
            loss = _cross_entropy(margin, label_0, 0.0)
        case "bt-margin":
            loss = _cross_entropy(margin, label_0, MARGIN)
    return (weight * loss).sum()


def _fidelity(p_0: Tensor, p_1: Tensor, label_0: Tensor) -> Float[Tensor, " n"]:
    """1 - sqrt(p + 1e-6) of a decided pair."""
    return 1 - label_0.sqrt() * (p_0 + EPSILON).sqrt() - (1 - label_0).sqrt() * (p_1 + EPSILON).sqrt()


def _cross_entropy(margin: Tensor, label_0: Tensor, required: float) -> Float[Tensor, " n"]:
    """Nats; `required` is what the winner should lead by."""
    return -label_0 * F.logsigmoid(margin - required) - (1 - label_0) * F.logsigmoid(-margin - required)
