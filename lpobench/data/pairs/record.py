"""One preference pair as its source gives it, and the account of the rows that are wrong.

A row that cannot be used is never dropped silently: reading counts it in the source's `problems`, and every
command prints them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import isclose, isfinite, nan
from typing import Any

LABELS = (0.0, 0.5, 1.0)
SHOWN = 5
"""Row numbers printed of each kind of problem."""


class BadRow(ValueError):
    """A row that cannot be used; `reason` is the same text for every row with the same fault."""

    def __init__(self, row: int, reason: str) -> None:
        super().__init__(f"row {row}: {reason}")
        self.row, self.reason = row, reason


@dataclass(frozen=True)
class PreferencePair:
    """Two images of one prompt, and which one was preferred."""

    row: int
    """Position in the source as it was opened: files in name order, only the split that was asked for."""
    split: str
    caption: str
    images: tuple[bytes, bytes] | None
    """Encoded files (JPEG, PNG, WebP), see `decode`; None where they were not asked for or the source has none."""
    uids: tuple[str, str]
    label_0: float
    """1: image 0 is preferred, 0: image 1, 0.5: a tie. Where `has_label` is false it means nothing, and may be NaN."""
    label_1: float
    num_example_per_prompt: int
    """Pairs the whole data set has of this prompt."""
    has_label: bool

    @property
    def tie(self) -> bool:
        """Labelled, and neither image preferred."""
        return self.has_label and self.label_0 == self.label_1


@dataclass
class Problems:
    """Reason -> the rows it was found in. A row counts once per reason, however often it is read."""

    rows: dict[str, set[int]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    """What is wrong and belongs to no row, one line each."""

    def add(self, reason: str, row: int) -> None:
        self.rows.setdefault(reason, set()).add(row)

    @contextmanager
    def counted(self) -> Iterator[None]:
        """A BadRow raised inside is counted, and goes on."""
        try:
            yield
        except BadRow as bad:
            self.add(bad.reason, bad.row)
            raise

    def update(self, other: Problems) -> None:
        """Take over what another reader found."""
        self.notes += [note for note in other.notes if note not in self.notes]
        for reason, rows in other.rows.items():
            self.rows.setdefault(reason, set()).update(rows)

    def before(self, row: int) -> Problems:
        """Those of the rows below `row`."""
        found = {reason: {bad for bad in rows if bad < row} for reason, rows in self.rows.items()}
        return Problems({reason: rows for reason, rows in found.items() if rows}, list(self.notes))

    def __len__(self) -> int:
        """Distinct rows with a problem."""
        return len(set().union(*self.rows.values()))

    def summary(self) -> list[dict[str, Any]]:
        """One entry per reason, the most frequent first: reason, count, first_rows."""
        ranked = sorted(self.rows.items(), key=lambda item: (-len(item[1]), item[0]))
        return [
            {"reason": reason, "count": len(rows), "first_rows": sorted(rows)[:SHOWN]}
            for reason, rows in ranked
        ]

    def lines(self) -> list[str]:
        """`3 rows: caption is missing (rows 4, 9, 17)`; empty when nothing is wrong."""
        told = list(self.notes)
        for entry in self.summary():
            count, first = entry["count"], ", ".join(map(str, entry["first_rows"]))
            more = ", ..." if count > SHOWN else ""
            told.append(
                f"{count} row{'s' * (count > 1)}: {entry['reason']} (row{'s' * (count > 1)} {first}{more})"
            )
        return told


def checked(row: int, split: str, cells: Mapping[str, Any], images: tuple[Any, Any] | None) -> PreferencePair:
    """A pair from a row in Pick-a-Pic's columns. Raises BadRow for anything that could not be trained on."""
    caption, has_label = cells["caption"], cells["has_label"]
    if not isinstance(caption, str):
        raise BadRow(row, "caption is missing" if caption is None else "caption is not text")
    if has_label not in (True, False):
        raise BadRow(row, "has_label is neither true nor false")
    label_0, label_1 = _labels(row, cells, bool(has_label))
    count = cells["num_example_per_prompt"]
    if not isinstance(count, int | float) or not isfinite(count) or count < 1 or count != int(count):
        raise BadRow(row, "num_example_per_prompt is not a whole number above 0")
    uids = cells["image_0_uid"], cells["image_1_uid"]
    if not all(isinstance(uid, str) and uid for uid in uids):
        raise BadRow(row, "an image has no uid")
    if images is not None and not all(isinstance(image, bytes) and image for image in images):
        raise BadRow(row, "an image is missing")
    return PreferencePair(row, split, caption, images, uids, label_0, label_1, int(count), bool(has_label))


def _labels(row: int, cells: Mapping[str, Any], has_label: bool) -> tuple[float, float]:
    labels = [cells["label_0"], cells["label_1"]]
    if not has_label:
        return tuple(float(label) if isinstance(label, int | float) else nan for label in labels)
    if not all(isinstance(label, int | float) and float(label) in LABELS for label in labels):
        raise BadRow(row, "a label is not 0, 0.5 or 1")
    if not isclose(sum(labels), 1):
        raise BadRow(row, "the labels do not sum to 1")
    return float(labels[0]), float(labels[1])


def share(num_rows: int, shard: tuple[int, int], start: int = 0) -> range:
    """The rows of one rank of `world`, all in one piece, from row `start` on."""
    rank, world = shard
    assert 0 <= rank < world, f"shard {rank} of {world}"
    first, last = num_rows * rank // world, num_rows * (rank + 1) // world
    return range(max(first, min(start, last)), last)


class RowReader(ABC):
    """The part that sources share which can read any row by itself."""

    problems: Problems

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def _read(self, row: int, images: bool) -> PreferencePair:
        """One row, without its images unless they are asked for. Raises BadRow."""

    def pairs(
        self, start: int = 0, shard: tuple[int, int] = (0, 1), *, images: bool = True
    ) -> Iterator[PreferencePair]:
        """See PairSource."""
        for row in share(len(self), shard, start):
            try:
                pair = self.get(row, images=images)
            except BadRow:
                continue
            yield pair

    def get(self, row: int, *, images: bool = True) -> PreferencePair:
        """See PairSource."""
        with self.problems.counted():
            return self._read(row, images)
