"""Galleries: the pictures of finished runs and evaluations, a column per model, a row per prompt and noise seed.

Pictures are read from the folders they were made in, and only those whose hash is on record. What is not shown is said.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from lpobench.records import pictures
from lpobench.report.columns import Source, Subject

if TYPE_CHECKING:
    import pandas as pd

PROMPTS, COLUMNS = 48, 14
"""Shown in one gallery, at most."""
EXACT, SIDE = 128, 384
"""Pictures of up to so many pixels a side are kept as they are; larger ones are reduced to so many."""
QUALITY = 82
MARKUP = 200
"""Bytes around a picture and each of its scores, about."""


@dataclass(frozen=True)
class Picture:
    """A picture as a data: address, and its shown size in pixels."""

    address: str
    width: int
    height: int


@dataclass(frozen=True)
class Tile:
    """One model's picture for a prompt, None where it is gone, and its scores, None where it has none."""

    picture: Picture | None
    scores: tuple[float | None, ...]


@dataclass(frozen=True)
class Row:
    """One prompt."""

    prompt: str
    task: str
    tiles: tuple[Tile, ...]


@dataclass(frozen=True)
class Gallery:
    """What is shown of one backbone under one protocol."""

    title: str
    lines: tuple[str, ...]
    columns: tuple[Source, ...]
    """The first is the base that the others are compared with, if `has_base`."""
    has_base: bool
    metrics: dict[str, bool]
    """Name -> whether higher is better."""
    rows: tuple[Row, ...]
    left_out: tuple[str, ...]
    """A sentence for each thing that is not shown."""


def galleries(subjects: Sequence[Subject], room: int) -> list[Gallery]:
    """Galleries that take about `room` bytes of a page, shared evenly; one that has no picture left has no row.

    Raises UserError, MissingAsset where the scores of a run cannot be read.
    """
    made = []
    for number, subject in enumerate(subjects):
        gallery, taken = _gallery(subject, room // (len(subjects) - number))
        room -= taken
        made.append(gallery)
    return made


def encode(data: bytes) -> Picture | None:
    """A picture file for a page: small ones keep every pixel. None where it is no picture."""
    try:
        with Image.open(io.BytesIO(data)) as file:
            image = file.convert("RGB")
    except OSError:
        return None
    packed = io.BytesIO()
    if max(image.size) <= EXACT:
        image.save(packed, "PNG", optimize=True)
    else:
        image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        image.save(packed, "WEBP", quality=QUALITY)
    kind = "png" if max(image.size) <= EXACT else "webp"
    address = f"data:image/{kind};base64,{base64.b64encode(packed.getvalue()).decode()}"
    return Picture(address, *image.size)


def _gallery(subject: Subject, room: int) -> tuple[Gallery, int]:
    """A gallery of at most `room` bytes, and how many it takes."""
    shown, left_out = _columns(subject)
    rows: list[Row] = []
    taken = 0
    if shown:
        scores = [source.scores() for source in shown]
        wanted = pictures.in_turn(scores[0]["task"])[:PROMPTS]
        prompt_ids = [scores[0].index[place] for place in wanted]
        for row, size in _rows(shown, scores, list(subject.metrics), prompt_ids):
            if taken + size > room:
                break
            rows.append(row)
            taken += size
        left_out += _prompts_left_out(len(rows), len(wanted), len(scores[0]))
    has_base = bool(shown) and shown[0] is subject.base
    made = (subject.title, subject.lines, tuple(shown), has_base, subject.metrics, tuple(rows))
    return Gallery(*made, tuple(left_out)), taken


def _columns(subject: Subject) -> tuple[list[Source], list[str]]:
    """Whose pictures are here, the base first, and what is said of the others."""
    everybody = [*filter(None, [subject.base]), *subject.methods]
    here = [source for source in everybody if source.folder]
    gone = [source for source in everybody if not source.folder]
    left_out = [f"pictures are gone of {_names(gone)}"] if gone else []
    if len(here) > COLUMNS:
        left_out.append(
            f"{len(here) - COLUMNS} of {len(here)} columns are not shown: {_names(here[COLUMNS:])}"
        )
    return here[:COLUMNS], left_out


def _names(sources: Sequence[Source], most: int = 8) -> str:
    names = [source.label for source in sources[:most]]
    more = len(sources) - most
    return ", ".join(names) + (f" and {more} more" if more > 0 else "")


def _prompts_left_out(shown: int, wanted: int, there: int) -> list[str]:
    lines = []
    if shown < there:
        lines.append(f"{shown} of {there} prompts are shown, taken from the tasks in turn")
    if shown < wanted:
        lines.append(f"{wanted - shown} more would not fit: a page stays below 25 MB")
    return lines


def _rows(
    columns: Sequence[Source],
    scores: Sequence[pd.DataFrame],
    metrics: Sequence[str],
    prompt_ids: Sequence[str],
) -> Iterator[tuple[Row, int]]:
    """Rows with the bytes each takes."""
    known = [pictures.noted(source.folder) for source in columns]
    for prompt_id in prompt_ids:
        tiles = [
            _tile(source.folder, hashes.get((prompt_id, 0), set()), table, prompt_id, metrics)
            for source, hashes, table in zip(columns, known, scores, strict=True)
        ]
        text = scores[0].loc[prompt_id]
        size = sum(len(tile.picture.address) if tile.picture else 0 for tile in tiles)
        yield (
            Row(text["prompt"], text["task"], tuple(tiles)),
            size + MARKUP * len(tiles) * (1 + len(metrics)),
        )


def _tile(
    folder: Path, known: set[str], scores: pd.DataFrame, prompt_id: str, metrics: Sequence[str]
) -> Tile:
    data = pictures.whole(folder, (prompt_id, 0), known)
    there = prompt_id in scores.index
    values = (scores.at[prompt_id, name] if there and name in scores else None for name in metrics)
    return Tile(encode(data) if data else None, tuple(None if v is None else float(v) for v in values))
