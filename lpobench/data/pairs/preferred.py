"""Preference pairs as methods train on them: a winner and a loser, no ties."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from lpobench.data.pairs.latent import LatentPairs
from lpobench.data.pairs.training import open_latents
from lpobench.learning.rows import ImagePairs
from lpobench.plugin import UserError
from lpobench.types import Backbone


@dataclass(frozen=True)
class Preferred:
    """The pairs of a split that have a winner, by number."""

    pairs: LatentPairs

    @classmethod
    def open(cls, sources: Sequence[str], backbone: Backbone) -> Preferred:
        """The training pairs of all sources. Raises UserError where a source has none with a winner, or latents of
        another size; MissingAsset."""
        return cls(LatentPairs.cat([_decided(source, backbone) for source in sources]))

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def captions(self) -> list[str]:
        """One per pair."""
        return self.pairs.table["caption"].tolist()

    def rows(self, numbers: list[int]) -> ImagePairs:
        """Clean latents of these pairs, float32, on the CPU."""
        batch = self.pairs.batch(np.array(numbers, dtype=int))
        first = (batch.label_0 > 0.5).view(-1, 1, 1, 1)
        winner, loser = (
            torch.where(first, batch.latents_0, batch.latents_1),
            torch.where(first, batch.latents_1, batch.latents_0),
        )
        return ImagePairs(winner, loser, batch.prompts)


def _decided(source: str, backbone: Backbone) -> LatentPairs:
    """The training pairs of a source that are no ties."""
    pairs = open_latents(source, backbone)
    if (size := tuple(pairs.latents.shape[1:])) != backbone.latent_shape:
        raise UserError(
            f"train.pairs {source}: latents of {list(size)}, {backbone.name} makes {list(backbone.latent_shape)}"
        )
    train = pairs.split("train")
    if not len(train):
        there = ", ".join(pairs.table["split"].unique()) or "none"
        raise UserError(f"train.pairs {source}: no labelled pair in the split train; splits: {there}")
    decided = train.take((train.table["label_0"] != 0.5).to_numpy())
    if not len(decided):
        raise UserError(f"train.pairs {source}: all {len(train)} pairs of the split train are ties")
    return decided
