"""What there is to do for a source: its pairs without their images, and which images they name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import pandas as pd
from jaxtyping import Int

from lpobench.data.pairs.prefetch import Picture, picture, pictures
from lpobench.data.pairs.record import BadRow, PreferencePair
from lpobench.data.pairs.source import PairSource
from lpobench.plugin import UserError

COLUMNS = {
    "row": "int64",
    "split": "category",
    "caption": str,
    "image_0_uid": str,
    "image_1_uid": str,
    "label_0": "float64",
    "label_1": "float64",
    "num_example_per_prompt": "int64",
    "has_label": bool,
}
READ_AT_ONCE = 8192
REPAIRED = "an image is damaged here; its copy in another row was used"


def pair_table(source: PairSource) -> pd.DataFrame:
    """The good rows of a source, all but their images. Raises UserError where there is none."""
    rows, parts = source.pairs(images=False), []
    while block := list(islice(rows, READ_AT_ONCE)):
        parts.append(pd.DataFrame([_cells(pair) for pair in block], columns=list(COLUMNS)).astype(COLUMNS))
    if not parts:
        raise UserError(
            f"{source.name} has no pair that can be used" + "".join(f"; {t}" for t in source.problems.lines())
        )
    table = pd.concat(parts, ignore_index=True)
    return table.assign(split=table["split"].astype(str).astype("category"))


def _cells(pair: PreferencePair) -> tuple:
    labels = pair.label_0, pair.label_1, pair.num_example_per_prompt, pair.has_label
    return (pair.row, pair.split, pair.caption, *pair.uids, *labels)


@dataclass(frozen=True)
class Numbered:
    """Distinct things the pairs name, numbered in the order in which they first appear."""

    of: Int[np.ndarray, "rows sides"]
    """Number of each pair's image 0 and 1."""
    first: Int[np.ndarray, " things"]
    """Where each appears first: 2 * position in the table + side."""

    def __len__(self) -> int:
        return len(self.first)

    def copies(self, place: int) -> Iterator[int]:
        """Everywhere the thing that appears first at `place` appears, in order."""
        yield place
        flat = self.of.ravel()  # looked through only when the first copy does not do
        yield from (int(later) for later in np.flatnonzero(flat == flat[place]) if later != place)


def number_images(table: pd.DataFrame, *, by_caption: bool = False) -> Numbered:
    """An image is known by its uid; `by_caption` tells the same image under two captions apart."""
    uids = table[["image_0_uid", "image_1_uid"]].to_numpy(dtype=object).ravel()
    codes, known = pd.factorize(uids)
    if by_caption:
        captions, texts = pd.factorize(table["caption"])
        codes, known = pd.factorize(codes.astype(np.int64) * len(texts) + captions.repeat(2))
    first = np.full(len(known), len(codes))
    np.minimum.at(first, codes, np.arange(len(codes)))
    return Numbered(codes.reshape(-1, 2), first)


def read_images(
    source: PairSource, table: pd.DataFrame, images: Numbered, items: range, side: int | None
) -> Iterator[Picture]:
    """The pictures of some images, in order, resized to `side` x `side`; read and decoded ahead, in threads.

    An image whose first copy is damaged is looked for in the pairs that show it again. What cannot be read at all
    comes without pixels; the source has counted bad rows.
    """
    first = images.first[items.start : items.stop].tolist()

    def repair(bad: Picture) -> Picture:
        for place in islice(images.copies(bad.place), 1, None):
            try:
                pair = source.get(int(table["row"].iat[place // 2]))
            except UserError:  # a stream cannot go back
                return bad
            except BadRow:
                continue
            again = picture(bad.place, pair.images[place % 2], side)
            if again.pixels is not None:
                source.problems.add(REPAIRED, int(table["row"].iat[bad.place // 2]))
                return again
        return bad

    return pictures(_files(source, table, first), side, repair)


def _files(source: PairSource, table: pd.DataFrame, wanted: list[int]) -> Iterator[tuple[int, bytes | None]]:
    """Encoded files at ascending places; the source is read in order. None where a row turned out bad."""
    rows = table["row"].to_numpy()
    pairs = source.pairs(start=int(rows[wanted[0] // 2]))
    pair = next(pairs, None)
    for place in wanted:
        row = rows[place // 2]
        while pair is not None and pair.row < row:
            pair = next(pairs, None)
        yield place, pair.images[place % 2] if pair is not None and pair.row == row else None
