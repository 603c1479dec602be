"""One scorer's scores of generated images, found by the image's hash and its prompt.

    scores/NAME@VERSION-HASH/scorer.json    the scorer, its settings and what its metrics mean
    scores/NAME@VERSION-HASH/HASH.csv       rows of one batch: sha256, prompt_id, image, and a column per metric

Another version, or other settings, is another folder. Files are written once and whole; a damaged one does not count.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lpobench.data.pairs.shards import claim, write_atomic
from lpobench.plugin import Metric, UserError
from lpobench.scoring.pictures import short_hash

SCORES, SCORER = "scores", "scorer.json"
Found = tuple[str, str]
"""An image's SHA-256, and its prompt's id."""
LABELS = ("sha256", "prompt_id", "image")


class NotFinite(UserError):
    """A score that is no number."""

    exit_code = 4


@dataclass(frozen=True)
class Ledger:
    """Where one scorer's scores are kept."""

    folder: Path
    """Of the evaluation."""
    name: str
    version: str
    settings: Mapping[str, Any]
    """JSON values."""
    metrics: Mapping[str, Metric]

    @property
    def place(self) -> Path:
        label = "@".join(re.sub(r"[^\w.-]", "-", part) for part in (self.name, self.version))
        return self.folder / SCORES / f"{label}-{short_hash(self.settings)[:8]}"

    def begin(self, scratch: Path) -> None:
        """Say whose scores these are."""
        meaning = {name: _plain(asdict(metric)) for name, metric in self.metrics.items()}
        about = {"scorer": self.name, "version": self.version, "settings": dict(self.settings)}
        claim(self.place / SCORER, {**about, "metrics": meaning}, scratch)

    def known(self, say: Callable[[str], None] = lambda line: None) -> dict[Found, tuple[float, ...]]:
        """Every score that is here, in the order of the metrics."""
        found: dict[Found, tuple[float, ...]] = {}
        for path in sorted(self.place.glob("*.csv")):
            try:
                found |= self._read(path)
            except (OSError, ValueError, KeyError, csv.Error) as error:
                say(f"{path} is damaged ({error}): its scores are made again")
        return found

    def add(self, rows: Sequence[tuple[Found, int, Sequence[float]]], scratch: Path) -> None:
        """Write some scores, of images by (hash, prompt), each with its number. Raises NotFinite and writes nothing."""
        for (_, prompt_id), image, values in rows:
            for metric, value in zip(self.metrics, values, strict=True):
                if not math.isfinite(value):
                    raise NotFinite(
                        f"evaluator {self.name}: {metric} is {value} for image {image} of prompt {prompt_id}; every "
                        "score must be finite"
                    )
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([*LABELS, *self.metrics])
        writer.writerows([*found, image, *map(repr, values)] for found, image, values in rows)
        name = short_hash([found for found, _, _ in rows])
        write_atomic(self.place / f"{name}.csv", text.getvalue().encode(), scratch)

    def _read(self, path: Path) -> dict[Found, tuple[float, ...]]:
        text = path.read_text(encoding="utf-8")
        if not text.endswith("\n"):
            raise ValueError("its end is missing")
        rows = list(csv.DictReader(io.StringIO(text), strict=True))
        return {
            (row["sha256"], row["prompt_id"]): tuple(_number(row[name]) for name in self.metrics)
            for row in rows
        }


def _number(text: str | None) -> float:
    if text is None:
        raise ValueError("a row is cut short")
    return float(text)


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON has it: what has no bound is null."""
    return {
        name: None if isinstance(value, float) and math.isinf(value) else value
        for name, value in values.items()
    }
