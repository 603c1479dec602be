"""A run's scores by prompt, the images of each averaged: what every comparison starts from.

A thousand runs are read in a second: the rows of the base, which runs share, are parsed once.
"""

from __future__ import annotations

import csv
import hashlib
import io
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat

import numpy as np
from pydantic_core import from_json

from lpobench.plugin import MissingAsset, UserError
from lpobench.records.record import RunRecord
from lpobench.records.scores import FILE

BASE = b"none,"
"""What the base's lines begin with."""


@dataclass(frozen=True)
class Images:
    """The rows of one variant, as they are in the file."""

    ids: tuple[str, ...]
    numbers: tuple[str, ...]
    texts: tuple[str, ...]
    values: np.ndarray
    """One row per image, one column per metric."""
    labels: tuple[bytes, ...] = ()
    """The lines without the variant and the numbers, as bytes; empty where a line break is in a prompt."""

    @cached_property
    def prompts(self) -> tuple[np.ndarray, np.ndarray]:
        """The first row of each prompt, by id; and for each row the number of its prompt."""
        _, first, place = np.unique(np.array(self.ids), return_index=True, return_inverse=True)
        return first, place

    @cached_property
    def names(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Ids and texts of the prompts, by id."""
        first, _ = self.prompts
        return tuple(self.ids[row] for row in first), tuple(self.texts[row] for row in first)

    def by_prompt(self, values: np.ndarray) -> np.ndarray:
        """Means over the images of each prompt, by id."""
        first, place = self.prompts
        if len(first) == len(place):
            return values[first]
        totals = np.zeros((len(first), values.shape[1]))
        np.add.at(totals, place, values)
        return totals / np.bincount(place)[:, None]


@dataclass(frozen=True)
class PromptScores:
    """One row per prompt, by id; one column per metric."""

    ids: tuple[str, ...]
    texts: tuple[str, ...]
    """Some prompts may have the same."""
    metrics: tuple[str, ...]
    base: np.ndarray
    method: np.ndarray
    """The base again, where a run has nothing else."""


class ScoreReader:
    """Reads the scores of runs, one after the other."""

    def __init__(self) -> None:
        self._bases: dict[tuple[bytes, bytes], Images] = {}

    def read(self, record: RunRecord) -> PromptScores:
        """Raises MissingAsset, and UserError where the file is not the one the record was written for."""
        assert record.folder is not None
        path = record.folder / FILE
        try:
            content = path.read_bytes()
        except OSError:
            raise MissingAsset(f"no scores at {path}") from None
        if record.files.get(FILE) not in (None, hashlib.sha256(content).hexdigest()):
            raise UserError(f"{path} has changed since its run ended; `lpobench runs verify` says what else")
        try:
            return self._parse(content, record)
        except (ValueError, IndexError, KeyError) as reason:
            raise UserError(f"{path} cannot be read as scores: {reason}") from None

    def _parse(self, content: bytes, record: RunRecord) -> PromptScores:
        head, _, body = content.partition(b"\n")
        if not body.startswith(BASE):
            raise ValueError("the first rows are not the base's")
        variant = _field(record.variant or "")
        theirs = _start(body, variant) if record.variant else len(body)
        ours, rest = body[:theirs], body[theirs:]
        columns = next(csv.reader([head.decode()]))
        metrics = tuple(record.metrics)
        num = len(columns) - columns.index("task") - 1
        base = self._bases.get((head, ours))
        if base is None:
            base = self._bases[head, ours] = _images(ours, num)
        method = _like(base, rest, variant, num) if rest else base.values
        places = [columns.index(name) - len(columns) + num for name in metrics]
        return PromptScores(
            *base.names,
            metrics,
            base.by_prompt(base.values)[:, places],
            base.by_prompt(method)[:, places],
        )


def _start(body: bytes, variant: bytes) -> int:
    """Where the lines of a variant begin."""
    found = body.find(b"\n" + variant + b",")
    if found < 0:
        raise ValueError(f"no rows of {variant.decode()}")
    return found + 1


def _field(text: str) -> bytes:
    """As it is written into a CSV file."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow([text])
    return line.getvalue().encode()


def _images(lines: bytes, num: int) -> Images:
    """Of rows variant, prompt_id, image, prompt, task, then `num` numbers."""
    rows = list(csv.reader(io.StringIO(lines.decode(), newline="")))
    if {len(row) for row in rows} != {5 + num}:
        raise ValueError("rows of different lengths")
    fields = list(zip(*rows, strict=True))
    values = np.array([list(map(float, field)) for field in fields[5:]]).T
    _, ids, numbers, texts = fields[:4]
    return Images(ids, numbers, texts, values, _labels(lines, num, len(rows)))


def _like(base: Images, lines: bytes, variant: bytes, num: int) -> np.ndarray:
    """The numbers of the same images by another variant. Raises ValueError where they are not the same.

    Where the lines' labels are the base's, byte for byte, only the numbers are parsed: by the JSON parser of
    pydantic, which is exact and ten times as fast as float().
    """
    rows, start = lines.splitlines(), len(variant) + 1
    if len(rows) == len(base.labels) and all(map(bytes.startswith, rows, base.labels, repeat(start))):
        numbers = [row[start + len(label) :] for row, label in zip(rows, base.labels, strict=True)]
        return np.array(from_json(b"[" + b",".join(numbers) + b"]"), float).reshape(-1, num)
    other = _images(lines, num)  # of prompts with line breaks, or written by something else
    if (other.ids, other.numbers) != (base.ids, base.numbers):
        raise ValueError("base and method have different images")
    return other.values


def _labels(lines: bytes, num: int, count: int) -> tuple[bytes, ...]:
    """What stands between the variant and the numbers, if every line is a row."""
    rows = lines.splitlines()
    heads = [row.partition(b",")[2] for row in rows]
    return (
        tuple(head[: -len(b",".join(head.rsplit(b",", num)[1:]))] for head in heads)
        if len(rows) == count
        else ()
    )
