"""What a run logged at every update: metrics.jsonl as columns."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lpobench.plugin import MissingAsset

FILE = "metrics.jsonl"
PLACES = ("update", "round")
"""Keys that say where a line is, and measure nothing."""


@dataclass(frozen=True)
class Curve:
    """One logged number, by update; NaN where it was not finite, or not logged."""

    updates: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Comparison:
    """One number logged by two runs."""

    key: str
    num: int
    """Updates that both have."""
    first: int | None
    """The first of them at which they differ; None where they are equal throughout."""
    largest: float
    """Difference, in size."""
    last: tuple[float, float]
    """Of the last common update."""


def read_curves(folder: Path) -> dict[str, Curve]:
    """By key, in the order of their first appearance. Lines that a kill has torn are skipped. Raises MissingAsset."""
    try:
        text = (folder / FILE).read_text(encoding="utf-8", errors="replace")
    except OSError:
        raise MissingAsset(f"no {FILE} in {folder}") from None
    lines = [line for line in map(_line, text.splitlines()) if line]
    keys = [key for key in dict.fromkeys(key for line in lines for key in line) if key not in PLACES]
    updates = tuple(int(line["update"]) for line in lines)
    return {key: Curve(updates, tuple(line.get(key, math.nan) for line in lines)) for key in keys}


def compare_curves(one: dict[str, Curve], other: dict[str, Curve]) -> list[Comparison]:
    """Every number that both have logged at some common update; seconds are no part of it."""
    found = []
    for key in one:
        if key not in other or key == "seconds":
            continue
        a, b = (dict(zip(c.updates, c.values, strict=True)) for c in (one[key], other[key]))
        common = [update for update in a if update in b]
        gaps = {update: _gap(a[update], b[update]) for update in common}
        if common:
            first = next((update for update in common if gaps[update]), None)
            last = a[common[-1]], b[common[-1]]
            found.append(Comparison(key, len(common), first, max(gaps.values()), last))
    return found


def window_means(values: Sequence[float], width: int) -> list[float]:
    """Means over a window that ends at each value, of the finite values in it."""
    means = []
    for end in range(1, len(values) + 1):
        inside = [value for value in values[max(0, end - width) : end] if math.isfinite(value)]
        means.append(sum(inside) / len(inside) if inside else math.nan)
    return means


def _line(text: str) -> dict[str, float]:
    """Its numbers; nothing where it is no line of such a file."""
    try:
        line = json.loads(text)
    except ValueError:
        return {}
    if not isinstance(line, dict) or not isinstance(line.get("update"), int):
        return {}
    read = {key: math.nan if value is None else value for key, value in line.items()}
    return {key: value for key, value in read.items() if isinstance(value, int | float)}


def _gap(a: float, b: float) -> float:
    if math.isnan(a) or math.isnan(b):
        return 0.0 if math.isnan(a) and math.isnan(b) else math.inf
    return abs(a - b)
