"""The pure parts of LRM training (LPO eq. 10-11): scores of noised pairs, their loss, pair accuracy."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from lpobench.data.pairs import LatentPairs, PairBatch
from lpobench.launch import ranks
from lpobench.sampling.schedule import Schedule
from rewards.lrm.model import LatentRewardModel


def grid(schedule: Schedule) -> Float[Tensor, " 20"]:
    """Timesteps an LRM is trained on: those a 20-step sampling run visits (released code)."""
    return schedule.timesteps(20)[:-1]


def preference_loss(
    score_0: Float[Tensor, " n"],
    score_1: Float[Tensor, " n"],
    label_0: Float[Tensor, " n"],
    weight: Float[Tensor, " n"],
) -> Float[Tensor, ""]:
    """Cross-entropy of softmax(score_0, score_1) with (label_0, 1 - label_0), nats, summed with weights.

    A tie (label 0.5) is shifted by ln 0.5, so that its minimum, at equal scores, is 0. Weights of a whole batch
    should add up to 1.
    """
    logprobs = torch.stack([score_0, score_1], 1).log_softmax(1)
    loss = -(label_0 * logprobs[:, 0] + (1 - label_0) * logprobs[:, 1])
    loss = loss + torch.where(label_0 == 0.5, np.log(0.5), 0.0)
    return (weight * loss).sum()


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


def draw_noise(pairs: LatentPairs, num: int, generator: torch.Generator) -> Float[Tensor, "2 n c h w"]:
    """Of a whole batch, whatever part of it is used: draws do not depend on the number of processes."""
    return torch.randn((2, num, *pairs.latents.shape[1:]), generator=generator)


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
    unknown or equal. Each process scores its part of every batch; all of them get all rows.
    """
    was_training, generator = model.training, torch.Generator().manual_seed(seed)
    model.eval()
    differences = []
    for rows in torch.arange(len(pairs)).split(batch_size):
        noise, mine = draw_noise(pairs, len(rows), generator), ranks.share(len(rows))
        difference = torch.empty(0)
        if len(rows[mine]):
            scores = pair_scores(model, schedule, pairs.batch(rows[mine]), t[rows[mine]], noise[:, mine])
            difference = (scores[0] - scores[1]).cpu()
        differences.append(difference)
    model.train(was_training)

    of_all = zip(*ranks.gather(differences), strict=True)  # batch by batch, in order of rank
    vote = torch.cat([part for batch in of_all for part in batch]).sign().double().numpy()
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
