"""From scores to training signal: pairs for DPO, advantages for policy gradients."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lpobench.learning.rows import StepPairs, StepSamples
from lpobench.plugin import UserError
from lpobench.sampling.rollout import Fork

Threshold = Literal["std", "variance", "timestep", "constant"]


_MEASURES: dict[Threshold, Callable[[float, float], float]] = {
    "std": lambda t, std: std,
    "variance": lambda t, std: std**2,
    "timestep": lambda t, std: t,
    "constant": lambda t, std: 0.0,
}


class NonFiniteScore(UserError):
    """A reward returned nan or inf: the run failed, its settings did not."""

    exit_code = 4


@dataclass(frozen=True)
class RankedPairs:
    """Best and worst candidate of every prompt at one step, with the verdict still on the device."""

    pairs: StepPairs
    sure: Bool[Tensor, " b"]
    """Whether the preference margin exceeds the step's threshold."""
    finite: Bool[Tensor, ""]
    """Whether every score was."""


def best_and_worst(fork: Fork, scores: Float[Tensor, "k b"], min_gap: float) -> RankedPairs:
    """Pair each prompt's best candidate with its worst; sure where P(best wins) - P(worst wins) > min_gap.

    P is Bradley-Terry over just these two scores, so the margin is tanh(half the score difference).
    """
    best, worst = scores.argmax(0), scores.argmin(0)
    rows = torch.arange(scores.shape[1], device=scores.device)
    margin = torch.tanh((scores[best, rows] - scores[worst, rows]) / 2)
    winner, loser = fork.candidates[best, rows], fork.candidates[worst, rows]
    pairs = StepPairs(fork.latents, fork.t, fork.s, winner, loser, fork.prompts)
    return RankedPairs(pairs, margin > min_gap, scores.isfinite().all())


def sure_pairs(ranked: Sequence[RankedPairs]) -> StepPairs:
    """The sure pairs of a whole rollout. The device is read here, once, and not at every step."""
    if not torch.stack([step.finite for step in ranked]).all():
        raise NonFiniteScore("the reward returned nan or inf scores; nothing was trained on this batch")
    pairs = StepPairs.cat([step.pairs for step in ranked])
    return pairs.take(torch.cat([step.sure for step in ranked]))


def min_gaps(
    strategy: Threshold, bounds: tuple[float, float], timesteps: Sequence[float], stds: Sequence[float]
) -> list[float]:
    """LPO's threshold for every step of a sampling run: bounds[0] at the least noisy, bounds[1] at the most.

    Linear in the step's std (eq. 12), variance (eq. 16) or timestep (eq. 17), or constant. A step of std 0 is
    never trained on: its threshold is infinite.
    """
    measure = _MEASURES[strategy]
    trained = [measure(t, std) for t, std in zip(timesteps, stds, strict=False) if std > 0]
    low, span = min(trained, default=0.0), max(trained, default=0.0) - min(trained, default=0.0)
    gaps = []
    for t, std in zip(timesteps, stds, strict=False):
        position = (measure(t, std) - low) / span if span else 0.0
        gaps.append(bounds[0] + (bounds[1] - bounds[0]) * position if std > 0 else math.inf)
    return gaps


def group_advantages(fork: Fork, scores: Float[Tensor, "k b"]) -> StepSamples:
    """Standardise scores within each group of candidates that share x_t (GRPO eq. 3); 0 where all agree.

    Rows come prompt by prompt, as rows of a step should: see StepRows.
    """
    k = len(scores)
    advantage = (scores - scores.mean(0)) / (scores.std(0, correction=0) + 1e-6)
    return StepSamples(
        fork.latents.repeat_interleave(k, 0),
        fork.t.repeat_interleave(k),
        fork.s.repeat_interleave(k),
        fork.candidates.transpose(0, 1).flatten(0, 1),
        fork.logprobs.T.flatten(),
        advantage.T.flatten(),
        [prompt for prompt in fork.prompts for _ in range(k)],
    )
