"""What the draws for a prompt are worth, by their scores."""

from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lpobench.learning.preference import finite, standardised, worth_training
from lpobench.learning.rows import StepSamples

Normalisation = Literal["group", "batch", "mixed"]


def normalised(scores: Float[Tensor, "k b"], over: Normalisation) -> Float[Tensor, "k b"]:
    """Scores less a mean and over a standard deviation, of all prompts or of each one's k draws.

    group  the prompt's own mean and std (GRPO eq. 3, DanceGRPO)
    batch  mean and std of all prompts' scores (DDPO without its per-prompt statistics)
    mixed  the prompt's mean, the std of all scores (Flow-GRPO, released code)

    Equal scores give exactly 0. A prompt with a score that is nan or inf gives nan, and counts for nothing.
    """
    if over == "group":
        return standardised(scores)
    good = finite(scores)
    scores = torch.where(good, scores - torch.where(good, scores, torch.inf).amin(), torch.nan)
    mean = scores.nanmean()
    std = (scores - mean).square().nanmean().sqrt() + 1e-6
    if over == "mixed":
        scores = scores - scores[0]  # the mean of k equal numbers is not always that number
        mean = scores.mean(0)
    return (scores - mean) / std


def with_advantages(rows: StepSamples, k: int, over: Normalisation) -> StepSamples:
    """Rows of `path_samples`, of a whole round, whose advantages are still scores: the k of a prompt follow each
    other. Only rows worth training are left.
    """
    scores = rows.advantages.view(-1, k).T
    return worth_training(replace(rows, advantages=normalised(scores, over).T.reshape(-1, 1)))
