"""A sweep as a comparison of its cells, and as tables: one row per value, seeds pooled."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence

from lpobench.records.compare import compare_families
from lpobench.records.comparison import Comparison, Row
from lpobench.records.families import Family, conditions, key_of
from lpobench.records.record import RunRecord
from lpobench.records.sweep import Sweep
from lpobench.report.comparison import comparison_document
from lpobench.report.labels import Labels
from lpobench.report.tables import Document

BASE = "base"


def sweep_comparisons(sweep: Sweep, records: Mapping[str, RunRecord]) -> list[Comparison]:
    """One for each protocol; `records` by id. Cells without a record are left out."""
    protocols: dict[str, list[Family]] = {}
    for label in sweep.labels:
        by_protocol: dict[str, dict[int, RunRecord]] = {}
        for cell in sweep.of(label):
            if record := records.get(cell.run):
                by_protocol.setdefault(key_of(conditions(record.protocol)), {})[record.seed] = record
        for protocol, seeds in by_protocol.items():
            family = Family(tuple(seeds[seed] for seed in sorted(seeds)), label)
            protocols.setdefault(protocol, []).append(family)
    return [compare_families(families) for families in protocols.values()]


def sweep_document(sweep: Sweep, comparison: Comparison, meanings: Mapping[str, str]) -> Document:
    """Its tables, under the ablation's title."""
    title = f"Ablation {sweep.heading}"
    made = comparison_document(comparison, meanings, title, labels_of(sweep, comparison))
    source = [" ".join(sweep.source.split())] if sweep.source else []
    return Document(
        title, made.sections, [*source, *made.header], [sweep.command, *made.footer, *unfinished(sweep)]
    )


def labels_of(sweep: Sweep, comparison: Comparison) -> Labels:
    """The value first; backbone, method and reward only where they differ."""
    columns: dict[str, Callable[[Row], str]] = {
        ", ".join(axis.label for axis in sweep.axes): lambda row: value(sweep, row)
    }
    named: dict[str, Callable[[Row], str]] = {
        "backbone": lambda row: row.backbone,
        "method": lambda row: row.method,
        "reward": lambda row: row.reward,
    }
    for name, text in named.items():
        if name not in columns and len({text(row) for row in comparison.rows if not row.is_base}) > 1:
            columns[name] = text
    columns["seeds"] = lambda row: str(len(row.seeds)) if row.seeds else ""
    return Labels(columns)


def value(sweep: Sweep, row: Row) -> str:
    """What a row has of the axes; the recipe's own value is marked."""
    if row.is_base:
        return BASE
    return f"{row.setting} (recipe)" if row.setting == sweep.baseline else row.setting


def ascending(labels: Sequence[str]) -> list[list[int]]:
    """Places of neighbours whose values have an order: numbers that grow, or ranges both ends of which do."""
    found: list[list[int]] = []
    before: tuple[float, ...] = ()
    for place, label in enumerate(labels):
        numbers = _numbers(label)
        pairs = list(zip(before, numbers, strict=False))
        if numbers and len(numbers) == len(before) and all(low <= high for low, high in pairs):
            found[-1].append(place)
        else:
            found.append([place])
        before = numbers
    return found


def _numbers(label: str) -> tuple[float, ...]:
    """Of a number, or of a range of two; none of anything else."""
    words = re.findall(r"[^\[\],\s]+", label)
    try:
        numbers = tuple(float(word) for word in words)
    except ValueError:
        return ()
    return numbers if all(map(math.isfinite, numbers)) else ()


def unfinished(sweep: Sweep) -> list[str]:
    """Cells that no table has, and why."""
    lines = [
        f"failed: {cell.label}, seed {cell.seed}: {cell.error or 'no reason is known'}"
        for cell in sweep.cells
        if cell.state == "failed"
    ]
    planned = sum(cell.state == "planned" for cell in sweep.cells)
    return [*lines, *([f"{planned} of {len(sweep.cells)} cells have not been run yet"] if planned else [])]


def hidden_cells(sweeps: Sequence[Sweep], records: Mapping[str, RunRecord]) -> set[str]:
    """Runs that only vary a setting of a sweep: the main table has the recipe's own, the sweep's table has all.

    A sweep over methods, rewards or backbones hides none: its cells are what the main table is about.
    """
    hidden: set[str] = set()
    for sweep in sweeps:
        names: dict[tuple[str, str, str | None], set[str]] = {}
        cells = [(cell, records[cell.run]) for cell in sweep.cells if cell.run in records]
        for cell, record in cells:
            names.setdefault((record.backbone, record.method, record.reward), set()).add(cell.label)
        for cell, record in cells:
            alike = names[record.backbone, record.method, record.reward]
            if len(alike) > 1 and cell.label != sweep.baseline:
                hidden.add(cell.run)
    return hidden
