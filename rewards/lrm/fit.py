"""An LRM's training run: 20 timesteps, noise of its own for each image, see rewards/fitting.py."""

from __future__ import annotations

import torch

from lpobench.data.pairs import LatentPairs
from lpobench.sampling.schedule import Schedule
from rewards.fitting import FreshLook, RewardTraining
from rewards.lrm.model import LatentRewardModel
from rewards.lrm.pairwise import pair_scorer
from rewards.lrm.settings import LRMTraining
from rewards.pair_scorer import grid


def training_run(
    model: LatentRewardModel,
    schedule: Schedule,
    pairs: LatentPairs,
    validation: LatentPairs,
    training: LRMTraining,
    seed: int,
    dtype: torch.dtype,
) -> RewardTraining:
    """Everything the optimiser loop needs. dtype bfloat16: autocast."""
    scorer, timesteps = pair_scorer(model, schedule), grid(schedule)
    look = FreshLook(scorer, timesteps, training.posterior, dtype)
    return RewardTraining(scorer, look, pairs, validation, timesteps, training, seed)
