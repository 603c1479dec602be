"""How an LRM scores noised pairs (LPO sec. 4.1, released code); what is not its own is in rewards/pair_scorer.py."""

from __future__ import annotations

from functools import partial

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from lpobench.data.pairs import LatentPairs, PairBatch
from lpobench.sampling.schedule import Schedule
from rewards import accuracy
from rewards.lrm.model import LatentRewardModel
from rewards.pair_scorer import PairScorer, grid


def pair_scores(
    model: LatentRewardModel,
    schedule: Schedule,
    batch: PairBatch,
    t: Float[Tensor, " n"],
    noise: Float[Tensor, "2 n c h w"],
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Scores of both images of each pair, noised to t independently. A distinct prompt is encoded once."""
    clean = torch.cat([batch.latents_0, batch.latents_1])
    alpha, sigma = (level.view(-1, 1, 1, 1).repeat(2, 1, 1, 1) for level in schedule.levels(t))
    latents = alpha * clean + sigma * noise.flatten(0, 1)

    device = model.device
    prompts = {prompt: row for row, prompt in enumerate(dict.fromkeys(batch.prompts))}
    text = model.encode_prompts([*prompts, ""])
    rows = torch.tensor([prompts[prompt] for prompt in batch.prompts] * 2, device=device)
    null = text.rows(-1)
    return model(latents.to(device), t.repeat(2).to(device), text.rows(rows), null).chunk(2)


def pair_scorer(model: LatentRewardModel, schedule: Schedule) -> PairScorer:
    """An LRM as the training loop knows it."""
    return PairScorer(model, partial(pair_scores, model, schedule), num_noises=2)


def accuracy_by_timestep(
    model: LatentRewardModel, schedule: Schedule, pairs: LatentPairs, seed: int = 0
) -> pd.DataFrame:
    """Pair accuracy at every timestep it is trained on, see rewards/accuracy.py."""
    return accuracy.accuracy_by_timestep(pair_scorer(model, schedule), grid(schedule), pairs, seed)
