"""Pair accuracy of a reward, by timestep: against noisy labels, and against the truth where it is known."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from lpobench.data.pairs import LatentPairs
from lpobench.launch import ranks
from lpobench.progress import progress
from rewards.pair_scorer import PairScorer, draw_noise


@torch.no_grad()
def evaluate(
    scorer: PairScorer, pairs: LatentPairs, t: Float[Tensor, " n"], seed: int, batch_size: int = 256
) -> pd.DataFrame:
    """One row per pair: its t, and whether the higher score is right by the label and by the truth.

    Columns `correct` and `true`: 1, 0, or 0.5 for equal scores and tied labels; NaN where the truth is
    unknown or equal. Each process scores its part of every batch; all of them get all rows.
    """
    was_training, generator = scorer.model.training, torch.Generator().manual_seed(seed)
    scorer.model.train(False)
    differences = []
    for rows in torch.arange(len(pairs)).split(batch_size):
        noise = draw_noise(pairs, len(rows), generator, scorer.num_noises)
        mine, difference = ranks.share(len(rows)), torch.empty(0)
        if len(rows[mine]):
            scores = scorer.score(pairs.batch(rows[mine]), t[rows[mine]], noise[:, mine])
            difference = (scores[0] - scores[1]).cpu()
        differences.append(difference)
    scorer.model.train(was_training)

    of_all = zip(*ranks.gather(differences), strict=True)  # batch by batch, in order of rank
    vote = torch.cat([part for batch in of_all for part in batch]).sign().double().numpy()
    label, truth = np.sign(pairs.table["label_0"].to_numpy() - 0.5), np.sign(pairs.true_gap)
    correct = 0.5 + 0.5 * vote * label
    true = np.where(truth == 0, np.nan, 0.5 + 0.5 * vote * truth)
    return pd.DataFrame({"t": t.numpy(), "correct": correct, "true": true})


def accuracy_by_timestep(
    scorer: PairScorer, timesteps: Float[Tensor, " m"], pairs: LatentPairs, seed: int = 0
) -> pd.DataFrame:
    """Pair accuracy at each timestep, fresh noise at each.

    Columns: t; accuracy, against the noisy labels, of n pairs; accuracy_true, against the exact preference,
    of the n_true pairs where it is known and not equal.
    """
    rows = []
    with progress(len(timesteps), "measuring the reward", enabled=ranks.is_main()) as advance:
        for number, t in enumerate(timesteps):
            outcome = evaluate(scorer, pairs, t.expand(len(pairs)), seed + number)
            accuracy, accuracy_true = outcome["correct"].mean(), outcome["true"].mean()
            rows.append((t.item(), accuracy, accuracy_true, len(outcome), int(outcome["true"].notna().sum())))
            advance(note=f"t {t.item():.0f}: accuracy {accuracy:.3f}")
    return pd.DataFrame(rows, columns=["t", "accuracy", "accuracy_true", "n", "n_true"])


def tables_of(
    scorer: PairScorer, timesteps: Float[Tensor, " m"], held_out: Mapping[str, LatentPairs]
) -> dict[str, pd.DataFrame]:
    """Accuracy by timestep of each split that has pairs."""
    return {
        name: accuracy_by_timestep(scorer, timesteps, part) for name, part in held_out.items() if len(part)
    }


def as_rows(tables: Mapping[str, pd.DataFrame]) -> dict[str, list[dict[str, float]]]:
    """Tables as JSON keeps them: what is unknown is None."""
    return {name: json.loads(table.to_json(orient="records")) for name, table in tables.items()}
