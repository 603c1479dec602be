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
from lpobench.sampling.rollout import Fork, Path

Threshold = Literal["std", "variance", "timestep", "constant"]


_MEASURES: dict[Threshold, Callable[[float, float], float]] = {
    "std": lambda t, std: std,
    "variance": lambda t, std: std**2,
    "timestep": lambda t, std: t,
    "constant": lambda t, std: 0.0,
}


class NonFiniteScore(UserError):
    """A reward returned nan or inf for every prompt: the run failed, its settings did not."""

    exit_code = 4


@dataclass(frozen=True)
class RankedPairs:
    """Best and worst candidate of every prompt at one step, with the verdict still on the device."""

    pairs: StepPairs
    sure: Bool[Tensor, " b"]
    """Whether the preference margin exceeds the step's threshold, and all scores are finite."""


def finite(scores: Float[Tensor, "k b"]) -> Bool[Tensor, " b"]:
    """Prompts all of whose scores are; the others are not to be trained on."""
    return scores.isfinite().all(0)


def decided(scores: Float[Tensor, "k b"], min_gap: float = 0.0) -> Bool[Tensor, " b"]:
    """Prompts where P(best wins) - P(worst wins) > min_gap, and all scores are finite.

    P is Bradley-Terry over just these two scores, so the margin is tanh(half the score difference).
    """
    margin = torch.tanh((scores.amax(0) - scores.amin(0)) / 2)
    return (margin > min_gap) & finite(scores)


def best_and_worst(fork: Fork, scores: Float[Tensor, "k b"], min_gap: float) -> RankedPairs:
    """Pair each prompt's best candidate with its worst; sure where that is `decided`."""
    best, worst = scores.argmax(0), scores.argmin(0)
    rows = torch.arange(scores.shape[1], device=scores.device)
    winner, loser = fork.candidates[best, rows], fork.candidates[worst, rows]
    pairs = StepPairs(fork.latents, fork.t, fork.s, winner, loser, fork.prompts)
    return RankedPairs(pairs, decided(scores, min_gap))


def sure_pairs(ranked: Sequence[RankedPairs]) -> StepPairs:
    """The sure pairs of a whole rollout. The device is read here, once, and not at every step."""
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


def standardised(scores: Float[Tensor, "k b"]) -> Float[Tensor, "k b"]:
    """Scores of k draws per prompt, less their mean and over their deviation (GRPO eq. 3); 0 where all agree."""
    scores = scores - scores[0]  # the mean of k equal numbers is not always that number, that of k zeros is
    return (scores - scores.mean(0)) / (scores.std(0, correction=0) + 1e-6)


def fork_samples(fork: Fork, advantages: Float[Tensor, "k b"]) -> StepSamples:
    """A fork's candidates as one row per prompt."""
    return StepSamples(
        fork.latents,
        fork.t,
        fork.s,
        fork.candidates.transpose(0, 1),
        fork.logprobs.T,
        advantages.T,
        fork.prompts,
    )


def path_samples(path: Path, advantages: Float[Tensor, "k b"], steps: Sequence[int]) -> StepSamples:
    """The given steps of whole trajectories, each of which is worth what its end is: k is 1 in every row.

    Rows go step by step, prompt by prompt within a step, and trajectory by trajectory within a prompt: the k of
    one prompt follow each other.
    """
    k, b = advantages.shape
    rows = torch.tensor(steps, device=path.latents.device)
    grid = torch.tensor(path.timesteps, device=path.latents.device)
    in_order = lambda x: x.transpose(1, 2).flatten(0, 2)
    return StepSamples(
        in_order(path.latents[rows]),
        grid[rows].repeat_interleave(k * b),
        grid[rows + 1].repeat_interleave(k * b),
        in_order(path.latents[rows + 1])[:, None],
        in_order(path.logprobs[rows])[:, None],
        in_order(advantages.expand(len(steps), k, b))[:, None],
        [prompt for prompt in path.prompts for _ in range(k)] * len(steps),
    )


def worth_training(rows: StepSamples) -> StepSamples:
    """Rows with an advantage: those whose draws all scored alike teach nothing, those with nan are dropped."""
    moves = rows.advantages.isfinite().all(1) & (rows.advantages != 0).any(1)
    return rows.take(moves)
