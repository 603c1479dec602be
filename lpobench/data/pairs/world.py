"""Shapes world as preference pairs: rendered, judged and labelled as they are read, the same for a seed.

Three pictures of each training prompt make three pairs; a held-out prompt has one pair. A picture shows its
prompt, or one attribute of it is changed.
"""

from __future__ import annotations

import io
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

from lpobench.data.pairs.record import PreferencePair, Problems, RowReader
from lpobench.data.pairs.splits import check_split
from lpobench.data.shapes.annotator import altered, labelled
from lpobench.data.shapes.judge import Judgement, judge
from lpobench.data.shapes.render import draw
from lpobench.data.shapes.scene import sample_scene

ROWS = 1000
HELD_OUT = 10
"""Training rows per row of validation_unique and of test_unique."""
GROUP = ((0, 1), (0, 2), (1, 2))
"""Pairs of a training prompt's pictures."""
QUALITY = 95


class WorldPairs(RowReader):
    """`shapes`, `shapes:ROWS` or `shapes:ROWS:SEED`: ROWS training pairs, and a tenth of that per held-out split."""

    has_images = True

    def __init__(self, name: str, split: str | None) -> None:
        numbers = [int(part) for part in name.split(":")[1:]]
        rows, seed = (*numbers, *(ROWS, 0)[len(numbers) :])
        sizes = {
            "train": rows,
            "validation_unique": -(-rows // HELD_OUT),
            "test_unique": -(-rows // HELD_OUT),
        }
        check_split(name, split, sizes)
        self.name, self.split, self.problems = name, split, Problems()
        self.seed = seed
        self.sizes = sizes if split is None else {split: sizes[split]}
        self._scene = lru_cache(maxsize=4)(self._make)

    def identity(self) -> dict[str, Any]:
        return {"kind": "shapes", "seed": self.seed, "rows": self.sizes}

    def __len__(self) -> int:
        return sum(self.sizes.values())

    def _read(self, row: int, images: bool) -> PreferencePair:
        split, local = self._place(row)
        group = GROUP if split == "train" else GROUP[:1]
        prompt, member = divmod(local, len(group))
        caption, pictures = self._scene(split, prompt)
        first, second = group[member]
        if np.random.default_rng([self.seed, prompt, member]).random() < 0.5:
            first, second = second, first
        words = pictures[first][1], pictures[second][1]
        label = labelled(*words, np.random.default_rng([self.seed, prompt, member, 1]))
        return PreferencePair(
            row=row,
            split=split,
            caption=caption,
            images=(pictures[first][0], pictures[second][0]) if images else None,
            uids=tuple(f"shapes-{self.seed}-{split}-{prompt:06d}-{i}" for i in (first, second)),
            label_0=label["label_0"],
            label_1=label["label_1"],
            num_example_per_prompt=min(len(group), self.sizes[split] - prompt * len(group)),
            has_label=True,
        )

    def _place(self, row: int) -> tuple[str, int]:
        """Split of a row, and its number in the split."""
        for split, size in self.sizes.items():
            if 0 <= row < size:
                return split, row
            row -= size
        raise IndexError(f"row {row} is beyond the {len(self)} rows")

    def _make(self, split: str, prompt: int) -> tuple[str, list[tuple[bytes, Judgement]]]:
        """A prompt, and its pictures with what the judge says of the JPEGs."""
        names = ("train", "validation_unique", "test_unique")
        rng = np.random.default_rng([self.seed, names.index(split), prompt])
        scene = sample_scene("train" if split == "train" else "eval", rng)
        pictures = []
        for _ in range(3 if split == "train" else 2):
            shown = altered(scene, rng) if rng.random() < 0.5 else scene
            pixels = draw(shown, rng)
            pictures.append((jpeg((pixels * 255).round().astype(np.uint8)), judge(scene, pixels)))
        return scene.text, pictures


def jpeg(pixels: np.ndarray, quality: int = QUALITY) -> bytes:
    """An H W 3 uint8 image as a JPEG file, colours at full resolution."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling=0)
    return file.getvalue()
