"""What is in a preference data set: one pass over it, counting; nothing is changed.

Every image is decoded (JPEGs at an eighth of their size), so that what training would stumble over is found here.
"""

from __future__ import annotations

import io
import os
import random
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from lpobench.data.pairs.image import BROKEN, FORMATS, BadImage
from lpobench.data.pairs.record import PreferencePair
from lpobench.data.pairs.source import PairSource
from lpobench.progress import progress

if TYPE_CHECKING:
    import pandas as pd

BINS = 12
CHUNK = 64


@dataclass
class Labels:
    """Rows by label; `unlabelled` is has_label=False."""

    image_0: int = 0
    image_1: int = 0
    tie: int = 0
    unlabelled: int = 0

    def add(self, pair: PreferencePair) -> None:
        if not pair.has_label:
            self.unlabelled += 1
        elif pair.tie:
            self.tie += 1
        elif pair.label_0 > pair.label_1:
            self.image_0 += 1
        else:
            self.image_1 += 1

    @property
    def balance(self) -> float | None:
        """Share of image 0 among the winners; None without a winner."""
        decided = self.image_0 + self.image_1
        return self.image_0 / decided if decided else None


@dataclass
class Inspection:
    """The findings. Repeats count what is there more than once beyond the first time."""

    source: str
    identity: str
    """Short hash of the source's identity."""
    rows: int
    """Rows read, the bad ones included."""
    usable: int = 0
    splits: Counter[str] = field(default_factory=Counter)
    labels: Labels = field(default_factory=Labels)
    prompts: int = 0
    captions_repeated: int = 0
    """Rows whose caption an earlier row has."""
    images: int = 0
    """Distinct image files."""
    images_repeated: int = 0
    """Uses of a file that an earlier row, or this one, has used."""
    pairs_repeated: int = 0
    """Rows with the caption and the two files of an earlier row, in either order."""
    twins: int = 0
    """Rows that compare a file with itself."""
    sizes: Counter[str] = field(default_factory=Counter)
    """WIDTHxHEIGHT -> uses."""
    gaps: dict[str, dict[str, Any]] = field(default_factory=dict)
    bad_rows: list[dict[str, Any]] = field(default_factory=list)
    bad_row_lines: list[str] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        """JSON values."""
        counts = {"splits": dict(self.splits), "sizes": dict(self.sizes.most_common())}
        return {**asdict(self), **counts, "label_balance": self.labels.balance}


@dataclass
class Seen:
    """Hashes, 16 bytes each, of what has gone by."""

    captions: set[bytes] = field(default_factory=set)
    files: set[bytes] = field(default_factory=set)
    pairs: set[bytes] = field(default_factory=set)


def inspect(
    source: PairSource,
    *,
    scores: Path | None = None,
    limit: int | None = None,
    show: int = 0,
    seed: int = 0,
) -> tuple[Inspection, list[PreferencePair]]:
    """Count everything in the first `limit` rows; with `show` labelled pairs drawn from them at random.

    `scores` is a folder of `lpobench data score`, whose gaps are counted too. Raises UserError.
    """
    rows = min(len(source), limit) if limit else len(source)
    found = Inspection(source.name, _short(repr(source.identity()).encode()).hex()[:12], rows)
    seen, samples, rng = Seen(), [], random.Random(seed)
    labelled, at = 0, 0
    with progress(rows, "inspecting") as advance:
        for pair, looks in _looked_at(source, rows):
            _count(found, seen, pair, looks, source)
            if pair.has_label and all(look.size for look in looks) and show:
                labelled += 1  # a reservoir: every labelled pair is equally likely to be shown
                place = len(samples) if len(samples) < show else rng.randrange(labelled)
                samples[place : place + 1] = [pair] if place < show else samples[place : place + 1]
            advance(pair.row + 1 - at)
            at = pair.row + 1
        if at < rows:  # bad rows at the end
            advance(rows - at)
    found.prompts, found.images = len(seen.captions), len(seen.files)
    found.gaps = (
        histograms(table[table.index < rows]) if (table := _gap_table(source, scores)) is not None else {}
    )
    problems = source.problems.before(rows)
    found.bad_rows, found.bad_row_lines = problems.summary(), problems.lines()
    return found, sorted(samples, key=lambda pair: pair.row)


@dataclass(frozen=True)
class Look:
    """An image file's hash, and its width and height; no size where it cannot be decoded."""

    digest: bytes
    size: tuple[int, int] | None


def look(data: bytes) -> Look:
    try:
        return Look(_short(data), _decoded_size(data))
    except BadImage:
        return Look(_short(data), None)


def _decoded_size(data: bytes) -> tuple[int, int]:
    """Width and height of an image, once all of it was decoded. Raises BadImage."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as file:
            size = file.size
            file.draft("RGB", (size[0] // 8 or 1, size[1] // 8 or 1))
            file.load()
            return size
    except BROKEN as error:
        raise BadImage("an image cannot be decoded") from error


def _looked_at(source: PairSource, rows: int) -> Iterator[tuple[PreferencePair, list[Look]]]:
    """The pairs of the first rows, their images decoded in threads."""
    pairs = source.pairs(images=source.has_images)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        while chunk := list(islice(pairs, CHUNK)):
            files = [image for pair in chunk for image in pair.images or ()]
            looks = iter(list(pool.map(look, files)))
            for pair in chunk:
                if pair.row >= rows:
                    return
                yield pair, [next(looks) for _ in pair.images or ()]


def _count(
    found: Inspection, seen: Seen, pair: PreferencePair, looks: list[Look], source: PairSource
) -> None:
    if any(look.size is None for look in looks):
        source.problems.add("an image cannot be decoded", pair.row)
        return
    found.usable += 1
    found.splits[pair.split] += 1
    found.labels.add(pair)
    found.captions_repeated += _is_repeated(seen.captions, caption := _short(pair.caption.encode()))
    for each in looks:
        found.sizes["{}x{}".format(*each.size)] += 1
        found.images_repeated += _is_repeated(seen.files, each.digest)
    if looks:
        files = sorted(each.digest for each in looks)
        found.twins += files[0] == files[1]
        found.pairs_repeated += _is_repeated(seen.pairs, _short(caption + b"".join(files)))


def _is_repeated(seen: set[bytes], digest: bytes) -> bool:
    known = digest in seen
    seen.add(digest)
    return known


def _short(data: bytes) -> bytes:
    return blake2b(data, digest_size=16).digest()


def histograms(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Each `..._gap` column: edges of equal bins, and how many win-lose pairs and ties fall into each."""
    tie = (table["label_0"] == table["label_1"]).to_numpy()
    labelled = table["has_label"].to_numpy(dtype=bool)
    found = {}
    for name in (name for name in table if name.endswith("_gap")):
        gaps = table[name].to_numpy(dtype=float)
        known = np.isfinite(gaps) & labelled
        if not known.any():
            continue
        edges = np.histogram_bin_edges(gaps[known], BINS)
        counts = {
            kind: np.histogram(gaps[known & mask], edges)[0].tolist()
            for kind, mask in (("win_lose", ~tie), ("ties", tie))
        }
        decided = gaps[known & ~tie]
        agree = float((decided > 0).mean()) if len(decided) else None
        unknown = int((labelled & ~known).sum())
        found[name] = {"edges": edges.tolist(), **counts, "unknown": unknown, "agree_with_label": agree}
    return found


def _gap_table(source: PairSource, scores: Path | None) -> pd.DataFrame | None:
    """The pairs with their gaps, row by row: from a folder of scores, or those the source has itself."""
    if scores is not None:
        from lpobench.data.pairs.gaps import add_gaps
        from lpobench.data.pairs.plan import pair_table

        return add_gaps(pair_table(source), source, scores, {}, source.problems)[0].set_index("row")
    if source.has_images:
        return None
    from lpobench.data.pairs.latent_source import LatentFolder

    return source.table.reset_index(drop=True) if isinstance(source, LatentFolder) else None
