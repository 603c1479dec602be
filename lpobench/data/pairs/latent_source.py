"""Pairs that are on disk as latents, read as a source: everything but the images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lpobench.data.pairs.latent import LatentPairs
from lpobench.data.pairs.record import PreferencePair, Problems, RowReader, checked
from lpobench.data.pairs.splits import check_split


class LatentFolder(RowReader):
    """A folder that `LatentPairs.write` wrote, or the shipped one."""

    has_images = False

    def __init__(self, name: str, folder: Path, split: str | None) -> None:
        pairs = LatentPairs.read(folder)
        check_split(name, split, pairs.table["split"].unique())
        self.name, self.split, self.problems = name, split, Problems()
        self.sha256 = pairs.meta.sha256
        self.table = pairs.table if split is None else pairs.table[pairs.table["split"] == split]

    def identity(self) -> dict[str, Any]:
        return {"kind": "latents", "split": self.split, "rows": len(self), "files": self.sha256}

    def __len__(self) -> int:
        return len(self.table)

    def _read(self, row: int, images: bool) -> PreferencePair:
        cells = self.table.iloc[row].to_dict()
        plain = {
            key: value.item() if isinstance(value, np.generic) else value for key, value in cells.items()
        }
        return checked(row, plain["split"], plain, None)
