"""Held-out preference pairs scored by reward models, at every noise level."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float64

from lpobench.data.pairs import LatentPairs
from lpobench.data.pairs.training import open_latents
from lpobench.plugin import UserError
from lpobench.sampling import Policy
from lpobench.scoring.noised import Level, at_level
from lpobench.types import Backbone, RewardModel

HELD_OUT = ("validation_unique", "test_unique")
Scores = Float64[np.ndarray, "levels 2 pairs"]


def held_out_pairs(
    source: str, backbone: Backbone, splits: Sequence[str] = HELD_OUT, limit: int | None = None
) -> LatentPairs:
    """The labelled pairs of some splits, or `limit` of them, evenly spread.

    Raises UserError where there is none, or no winner among them, and for latents of another space.
    """
    whole = open_latents(source, backbone)
    pairs = whole.take((whole.table["split"].isin(splits) & whole.table["has_label"].astype(bool)).to_numpy())
    if not len(pairs):
        known = ", ".join(sorted(map(str, whole.table["split"].unique())))
        raise UserError(
            f"{source}: no labelled pair in the split {' or '.join(splits)}; its splits: {known or 'none'}"
        )
    if limit is not None and limit < len(pairs):
        pairs = pairs.take(np.linspace(0, len(pairs) - 1, limit).astype(int))
    if not (pairs.table["label_0"] != 0.5).any():
        raise UserError(f"{source}: all {len(pairs)} pairs are ties, there is no winner to find")
    return pairs


@torch.no_grad()
def score_pairs(
    rewards: Mapping[str, RewardModel],
    policy: Policy,
    pairs: LatentPairs,
    levels: Sequence[Level],
    *,
    seed: int = 0,
    batch_size: int = 32,
    advance: Callable[[int], None] = lambda count: None,
) -> dict[str, Scores]:
    """Scores of image 0 and image 1 of every pair at each level, by reward.

    Both images of a pair get the same noise. Rewards that read images share the x0 estimates and their images.
    `batch_size` pairs are in memory at a time; `advance` is told how many were scored at a level.
    """
    found = {name: np.empty((len(levels), 2, len(pairs))) for name in rewards}
    table = pairs.table
    names = [
        " ".join(row)
        for row in zip(table["image_0_uid"], table["image_1_uid"], table["caption"], strict=True)
    ]
    for start in range(0, len(pairs), batch_size):
        rows = slice(start, min(start + batch_size, len(pairs)))
        batch = pairs.batch(np.arange(rows.start, rows.stop))
        latents = torch.cat([batch.latents_0, batch.latents_1])
        for place, level in enumerate(levels):
            noisy = at_level(policy, latents, batch.prompts * 2, level, names[rows] * 2, seed)
            for name, reward in rewards.items():
                scores = reward.score(noisy).double().cpu().numpy()
                found[name][place, :, rows] = scores.reshape(2, -1)
            advance(len(batch.prompts))
    return found
