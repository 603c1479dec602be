"""Published tables, number for number; and those that stand after ours in a report, never among them."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Sequence
from dataclasses import asdict, fields

from lpobench.records.comparison import Comparison
from lpobench.records.published import TITLES, Number, numbers_of, units
from lpobench.records.sweep import Sweep
from lpobench.report.tables import Document, Section

ABLATIONS = {"method": "general", "data": "same_data_general"}
"""Ablations whose table has another name than theirs."""
MAIN = "general"
KEYS = ("backbone", "method", "setting")
APART = "published numbers are of other models, prompts and noise: they are not ranked or averaged with ours"


def published_document(table: str) -> Document:
    """A table of the paper. Raises UserError."""
    numbers = numbers_of(table)
    sources = ", ".join(dict.fromkeys(number.source for number in numbers))
    where = [f"table {table} of {sources}"]
    return Document(f"Published: {TITLES[table]}", [section(numbers)], where, [units(numbers)])


def section(numbers: Sequence[Number], title: str = "") -> Section:
    """One row per combination, one column per metric, in the order of the paper; labels without text are left out."""
    keys = [key for key in KEYS if any(getattr(number, key) for number in numbers)]
    metrics = list(dict.fromkeys(number.metric for number in numbers))
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    for number in numbers:
        cells = rows.setdefault(tuple(getattr(number, key) for key in keys), {})
        assert number.metric not in cells, f"two published numbers for {number}"
        cells[number.metric] = number.value
    body = [[*names, *(cells.get(metric, "") for metric in metrics)] for names, cells in rows.items()]
    return Section([*keys, *metrics], body, title=title, labels=len(keys))


def after_comparison(comparison: Comparison) -> list[Section]:
    """The paper's main table, of our backbones where it has them."""
    return [_after(MAIN, {record.backbone for record in comparison.records})]


def after_sweep(sweep: Sweep, comparison: Comparison) -> list[Section]:
    """The paper's table of this ablation; none where it has none."""
    table = ABLATIONS.get(sweep.name, f"ablate_{sweep.name.replace('-', '_')}")
    return [_after(table, {record.backbone for record in comparison.records})] if table in TITLES else []


def _after(table: str, backbones: Collection[str]) -> Section:
    numbers = numbers_of(table)
    ours = [number for number in numbers if number.backbone in backbones]
    made = section(ours or numbers, f"Published: {TITLES[table]} ({numbers[0].source}, table {table})")
    note = f"{APART}; {units(numbers)}" + ("" if ours else "; it has none of our backbones")
    return Section(made.headers, made.rows, note, made.title, made.labels)


def to_csv(tables: Sequence[str]) -> str:
    """As the file has them."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Number)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(number) for table in tables for number in numbers_of(table))
    return text.getvalue()
