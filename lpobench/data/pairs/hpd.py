"""HPDv2: `train.json` and `test.json`, with the images in folders or tar archives beside them.

A training entry is one pair: `prompt`, `file_path` (two names), `human_preference` (1 for the preferred). A test
entry ranks several images, 1 the best, averaged over annotators: `prompt`, `image_path`, `rank`; it becomes all its
pairs, and equal ranks are a tie.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass
from itertools import accumulate, combinations
from pathlib import Path
from typing import Any

from lpobench.data.cache import content
from lpobench.data.pairs.image_files import FolderImages, Images, SeveralImages, TarImages, unpacked
from lpobench.data.pairs.record import BadRow, PreferencePair, Problems, RowReader, checked
from lpobench.data.pairs.splits import check_split
from lpobench.plugin import UserError

SPLITS = ("train", "test")
PACKED = (".tar.gz", ".tgz", ".tar.xz", ".tar.bz2")


@dataclass(frozen=True)
class Ranked:
    """Images of one prompt. `places` is lower for the better; empty where the entry is wrong, as `wrong` says."""

    prompt: str
    images: tuple[str, ...]
    places: tuple[float, ...]
    wrong: str = ""

    @property
    def num_pairs(self) -> int:
        """A wrong entry is one row, so that it is counted."""
        return len(self.images) * (len(self.images) - 1) // 2 if not self.wrong else 1


class HPDPairs(RowReader):
    """Every pair of every entry, in the order of the file; of `train` before `test`."""

    has_images = True

    def __init__(self, name: str, folder: Path, split: str | None) -> None:
        there = [known for known in SPLITS if (folder / f"{known}.json").is_file()]
        check_split(name, split, there)
        self.name, self.split, self.folder, self.problems = name, split, folder, Problems()
        self.splits = there if split is None else [split]
        self.entries = {known: _read_list(folder / f"{known}.json") for known in self.splits}
        self.images = {known: _images_of(folder, known) for known in self.splits}
        self._ends = {
            known: list(accumulate(entry.num_pairs for entry in entries))
            for known, entries in self.entries.items()
        }
        self._counts = {known: _pairs_per_prompt(entries) for known, entries in self.entries.items()}
        for images in self.images.values():
            self.problems.notes += images.notes

    def identity(self) -> dict[str, Any]:
        lists = {known: content(self.folder / f"{known}.json") for known in self.splits}
        return {"kind": "hpdv2", "split": self.split, "rows": len(self), "lists": lists}

    def __len__(self) -> int:
        return sum(ends[-1] for ends in self._ends.values() if ends)

    def _read(self, row: int, images: bool) -> PreferencePair:
        split, local = self._place(row)
        ends = self._ends[split]
        number = bisect_right(ends, local)
        entry = self.entries[split][number]
        if entry.wrong:
            raise BadRow(row, entry.wrong)
        pairs = list(combinations(range(len(entry.images)), 2))
        first, second = pairs[local - ends[number] + len(pairs)]
        ahead = entry.places[second] - entry.places[first]
        label = 0.5 if ahead == 0 else float(ahead > 0)
        names = entry.images[first], entry.images[second]
        cells = {
            "caption": entry.prompt,
            "label_0": label,
            "label_1": 1 - label,
            "has_label": True,
            "num_example_per_prompt": self._counts[split][entry.prompt],
            "image_0_uid": f"{split}/{names[0]}",
            "image_1_uid": f"{split}/{names[1]}",
        }
        files = tuple(self.images[split].read(row, name) for name in names) if images else None
        return checked(row, split, cells, files)

    def _place(self, row: int) -> tuple[str, int]:
        """Split of a row, and its number in the split."""
        local = row
        for split, ends in self._ends.items():
            size = ends[-1] if ends else 0
            if 0 <= local < size:
                return split, local
            local -= size
        raise IndexError(f"row {row} of {len(self)}")


def _read_list(path: Path) -> list[Ranked]:
    try:
        entries = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}; the file is damaged, get it again") from error
    if not isinstance(entries, list):
        raise UserError(f"{path} should hold a list of HPDv2's entries, holds {type(entries).__name__}")
    return [_ranked(entry) for entry in entries]


def _ranked(entry: Any) -> Ranked:
    if not isinstance(entry, dict):
        return Ranked("", (), (), "an entry is not an object")
    prompt = entry.get("prompt")
    if not isinstance(prompt, str):
        return Ranked("", (), (), "caption is missing" if prompt is None else "caption is not text")
    images = entry.get("file_path", entry.get("image_path"))
    places = entry.get("human_preference", entry.get("rank"))
    lists = isinstance(images, list) and isinstance(places, list)
    if not lists or len(images) != len(places) or len(images) < 2:
        return Ranked(prompt, (), (), "an entry has not as many ranks as images")
    if not all(isinstance(name, str) and name for name in images):
        return Ranked(prompt, (), (), "an image is missing")
    if not all(isinstance(place, int | float) for place in places):
        return Ranked(prompt, (), (), "a rank is not a number")
    if "human_preference" in entry:
        if sorted(places) != [0, 1]:
            return Ranked(prompt, (), (), "human_preference is not a 0 and a 1")
        places = [1 - place for place in places]
    return Ranked(prompt, tuple(images), tuple(map(float, places)))


def _pairs_per_prompt(entries: list[Ranked]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for entry in entries:
        counts[entry.prompt] += entry.num_pairs
    return counts


def _images_of(folder: Path, split: str) -> Images:
    """A split's images: its folder if there is one, then its archives, then the list's own folder."""
    other = next(name for name in SPLITS if name != split)
    files = [file for place in (folder, folder / split) if place.is_dir() for file in sorted(place.iterdir())]
    files = [file for file in files if file.is_file() and not file.name.startswith(other)]
    plain = [file for file in files if file.suffix == ".tar"]
    packed = [file for file in files if file.name.endswith(PACKED)]
    found: list[Images] = [FolderImages([folder / split])] if (folder / split).is_dir() else []
    found += [TarImages(plain)] if plain else []
    found += [unpacked(file) for file in packed]
    return SeveralImages([*found, FolderImages([folder / "images", folder])])
