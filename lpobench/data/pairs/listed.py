"""Pairs of your own: a folder of images with `pairs.jsonl`, one JSON object per line.

    {"prompt": "a red star", "image_0": "a.jpg", "image_1": "more/b.png", "label_0": 1}

`label_0` is 1, 0 or 0.5; null or absent is a pair without a label. Optional: `caption` for `prompt`, `label_1`,
`split` (train), `image_0_uid` and `image_1_uid` (the paths), `num_example_per_prompt` (counted), `has_label`.
"""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lpobench.data.cache import content
from lpobench.data.pairs.image_files import FolderImages
from lpobench.data.pairs.record import BadRow, PreferencePair, Problems, RowReader, checked
from lpobench.data.pairs.splits import check_split
from lpobench.plugin import UserError

LIST = "pairs.jsonl"


class ListedPairs(RowReader):
    """Lines of pairs.jsonl, found again by their place in the file; blank ones do not count."""

    has_images = True

    def __init__(self, name: str, folder: Path, split: str | None) -> None:
        self.name, self.split, self.problems = name, split, Problems()
        self.path, self.images = folder / LIST, FolderImages([folder])
        self._offsets, self._counts = array("Q"), Counter[tuple[str, str]]()
        splits = set()
        for offset, line in self._lines():
            found, row_split = self._peek(line)
            splits.add(row_split)
            if split in (None, row_split):
                self._offsets.append(offset)
                self._counts[row_split, found] += 1
        check_split(name, split, splits)

    def identity(self) -> dict[str, Any]:
        return {"kind": "jsonl", "split": self.split, "rows": len(self), LIST: content(self.path)}

    def __len__(self) -> int:
        return len(self._offsets)

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        """Offset and text of each line that is not blank."""
        offset = 0
        try:
            with self.path.open("rb") as file:
                for line in file:
                    if line.strip():
                        yield offset, line
                    offset += len(line)
        except OSError as error:
            raise UserError(f"cannot read {self.path}: {error.strerror}") from error

    def _peek(self, line: bytes) -> tuple[str, str]:
        """Prompt and split of a line, as far as they can be read."""
        try:
            cells = _cells(line)
        except ValueError:
            return "", "train"
        return str(_caption(cells)), str(cells.get("split", "train"))

    def _read(self, row: int, images: bool) -> PreferencePair:
        with self.path.open("rb") as file:
            file.seek(self._offsets[row])
            line = file.readline()
        try:
            cells = _cells(line)
        except ValueError as error:
            raise BadRow(row, "the line is not a JSON object") from error
        split, label = str(cells.get("split", "train")), cells.get("label_0")
        paths = cells.get("image_0"), cells.get("image_1")
        if not all(isinstance(path, str) and path for path in paths):
            raise BadRow(row, "image_0 or image_1 is not a path")
        known = isinstance(label, int | float)
        filled = {
            "caption": _caption(cells),
            "label_0": label,
            "label_1": cells.get("label_1", 1 - label if known else None),
            "has_label": cells.get("has_label", label is not None),
            "num_example_per_prompt": cells.get(
                "num_example_per_prompt", self._counts[split, str(_caption(cells))]
            ),
            "image_0_uid": cells.get("image_0_uid", paths[0]),
            "image_1_uid": cells.get("image_1_uid", paths[1]),
        }
        files = tuple(self.images.read(row, path) for path in paths) if images else None
        return checked(row, split, filled, files)


def _cells(line: bytes) -> dict[str, Any]:
    """Raises ValueError for a line that is no JSON object."""
    cells = json.loads(line)
    if not isinstance(cells, dict):
        raise ValueError("not an object")
    return cells


def _caption(cells: dict[str, Any]) -> Any:
    return cells.get("prompt", cells.get("caption"))
