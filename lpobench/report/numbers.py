"""A comparison as numbers for other programs: CSV rows, one per metric and row, or JSON. Every digit is kept."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lpobench.records.comparison import Column, Comparison, Entry, Row
from lpobench.records.evaluation import EvalRecord

FIELDS = (
    "table",
    "protocol",
    "backbone",
    "method",
    "reward",
    "setting",
    "seeds",
    "metric",
    "scorer",
    "version",
    "higher_is_better",
    "mean",
    "difference",
    "low",
    "high",
    "seed_spread",
    "win_rate",
    "trained_on",
    "best",
)
COSTS = (
    "calls",
    "rows",
    "decodes",
    "seconds",
    "reward_seconds",
    "evaluation_seconds",
    "peak_memory_bytes",
)
"""Of Effort. In the CSV each is a metric of its own, with a mean and nothing else."""


def to_csv(comparisons: Mapping[str, Comparison], evaluations: Sequence[EvalRecord] = ()) -> str:
    """All comparisons, by the names of their tables; and the means of evaluations, which have no base."""
    text = io.StringIO()
    writer = csv.DictWriter(text, FIELDS, lineterminator="\n", restval="")
    writer.writeheader()
    for name, comparison in comparisons.items():
        writer.writerows(_lines(name, comparison))
    for record in evaluations:
        about = {"table": f"evaluation {record.id}", "protocol": record.protocol.protocol}
        about |= {"backbone": record.backbone, "method": record.weights}
        for metric, found in record.metrics.items():
            numbers = {"higher_is_better": found.higher_is_better, "mean": found.mean}
            writer.writerow({**about, "metric": metric, **numbers})
    return text.getvalue()


def to_json(comparison: Comparison) -> dict[str, Any]:
    """The same with all there is: protocol, seeds one by one, record ids."""
    columns = {column.label: column for column in comparison.columns}
    return {
        "protocol": comparison.protocol.model_dump(mode="json", exclude={"evaluators"}),
        "columns": [vars(column) for column in comparison.columns],
        "rows": [_row(row, columns) for row in comparison.rows],
        "notes": list(comparison.notes),
    }


def dumps(document: object) -> str:
    """One JSON document, as every verb prints it."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _row(row: Row, columns: Mapping[str, Column]) -> dict[str, Any]:
    effort = row.effort
    return {
        **_names(row),
        "base": row.is_base,
        "seeds": list(row.seeds),
        "records": [record.id for record in row.records],
        "metrics": {
            label: {**_entry(entry), "by_seed": list(entry.by_seed)}
            for label, entry in row.entries.items()
            if label in columns
        },
        "costs": {**{name: getattr(effort, name) for name in COSTS}, "devices": list(effort.devices)}
        if effort
        else None,
    }


def _lines(table: str, comparison: Comparison) -> Iterable[dict[str, Any]]:
    for row in comparison.rows:
        common = {"table": table, "protocol": comparison.protocol.protocol, **_names(row)}
        common["seeds"] = " ".join(map(str, row.seeds))
        for column in comparison.columns:
            if entry := row.entries.get(column.label):
                about = {
                    key: getattr(column, key) for key in ("metric", "scorer", "version", "higher_is_better")
                }
                yield {**common, **about, **_plain(_entry(entry))}
        if row.effort:
            for name in COSTS:
                yield {**common, "metric": name, **_plain({"mean": getattr(row.effort, name)})}


def _entry(entry: Entry) -> dict[str, Any]:
    return {
        "mean": entry.mean,
        "difference": entry.difference,
        "low": entry.low,
        "high": entry.high,
        "seed_spread": entry.spread,
        "win_rate": entry.win_rate,
        "trained_on": entry.trained_on,
        "best": entry.best,
    }


def _names(row: Row) -> dict[str, str]:
    return {name: getattr(row, name) for name in ("backbone", "method", "reward", "setting")}


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """None as an empty field."""
    return {key: "" if value is None else value for key, value in values.items()}
