"""The pure parts of LRM training (LPO eq. 10-11): scores of noised pairs, their loss, pair accuracy."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from lpobench.data.pairs import LatentPairs, PairBatch
from lpobench.sampling.schedule import Schedule
from rewards.lrm_model import LatentRewardModel, TextFeatures


def grid(schedule: Schedule) -> Float[Tensor, " 20"]:
    """Timesteps an LRM is trained on: those a 20-step sampling run visits (released code)."""
    return schedule.timesteps(20)[:-1]


def preference_loss(
    score_0: Float[Tensor, " n"],
    score_1: Float[Tensor, " n"],
    label_0: Float[Tensor, " n"],
    weight: Float[Tensor, " n"],
) -> Float[Tensor, ""]:
    """Cross-entropy of softmax(score_0, score_1) with (label_0, 1 - label_0), nats, weighted mean.

    A tie (label 0.5) is shifted by ln 0.5, so that its minimum, at equal scores, is 0.
    """
    logprobs = torch.stack([score_0, score_1], 1).log_softmax(1)
    loss = -(label_0 * logprobs[:, 0] + (1 - label_0) * logprobs[:, 1])
    loss = loss + torch.where(label_0 == 0.5, np.log(0.5), 0.0)
    return (weight / weight.sum() * loss).sum()


def pair_scores(
    model: LatentRewardModel,
    schedule: Schedule,
    batch: PairBatch,
    t: Float[Tensor, " n"],
    generator: torch.Generator,
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Scores of both images of each pair, noised to t independently. A distinct prompt is encoded once."""
    clean = torch.cat([batch.latents_0, batch.latents_1])
    noise = torch.randn(clean.shape, generator=generator)
    alpha, sigma = (level.view(-1, 1, 1, 1).repeat(2, 1, 1, 1) for level in schedule.levels(t))
    latents = alpha * clean + sigma * noise

    device = model.logit_scale.device
    prompts = {prompt: row for row, prompt in enumerate(dict.fromkeys(batch.prompts))}
    text = model.encode_prompts([*prompts, ""])
    rows = torch.tensor([prompts[prompt] for prompt in batch.prompts] * 2, device=device)
    both = TextFeatures(text.context[rows], text.pooled[rows])
    return model(latents.to(device), t.repeat(2).to(device), both, text.context[-1]).chunk(2)


@torch.no_grad()
def evaluate(
    model: LatentRewardModel,
    schedule: Schedule,
    pairs: LatentPairs,
    t: Float[Tensor, " n"],
    seed: int,
    batch_size: int = 256,
) -> pd.DataFrame:
    """One row per pair: its t, and whether the higher score is right by the label and by the truth.

    Columns `correct` and `true`: 1, 0, or 0.5 for equal scores and tied labels; NaN where the truth is
    unknown or equal.
    """
    was_training, generator = model.training, torch.Generator().manual_seed(seed)
    model.eval()
    difference = []
    for rows in torch.arange(len(pairs)).split(batch_size):
        score_0, score_1 = pair_scores(model, schedule, pairs.batch(rows), t[rows], generator)
        difference.append((score_0 - score_1).cpu())
    model.train(was_training)

    vote = torch.cat(difference).sign().double().numpy()
    label, truth = np.sign(pairs.table["label_0"].to_numpy() - 0.5), np.sign(pairs.true_gap)
    correct = 0.5 + 0.5 * vote * label
    true = np.where(truth == 0, np.nan, 0.5 + 0.5 * vote * truth)
    return pd.DataFrame({"t": t.numpy(), "correct": correct, "true": true})


def accuracy_by_timestep(
    model: LatentRewardModel, schedule: Schedule, pairs: LatentPairs, seed: int = 0
) -> pd.DataFrame:
    """Pair accuracy at every timestep of the grid, fresh noise at each.

    Columns: t; accuracy, against the noisy labels, of n pairs; accuracy_true, against the exact preference,
    of the n_true pairs where it is known and not equal.
    """
    rows = []
    for number, t in enumerate(grid(schedule)):
        outcome = evaluate(model, schedule, pairs, t.expand(len(pairs)), seed + number)
        accuracy, accuracy_true = outcome["correct"].mean(), outcome["true"].mean()
        rows.append((t.item(), accuracy, accuracy_true, len(outcome), int(outcome["true"].notna().sum())))
    return pd.DataFrame(rows, columns=["t", "accuracy", "accuracy_true", "n", "n_true"])
