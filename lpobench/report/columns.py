"""What a gallery shows side by side: the rows of a comparison that share a base, or evaluations of one backbone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lpobench.records import pictures
from lpobench.records.comparison import Column, Comparison, Row
from lpobench.records.evaluation import EvalRecord, comparable
from lpobench.records.record import Protocol, RunRecord
from lpobench.records.scores import FILE, read_scores

if TYPE_CHECKING:
    import pandas as pd

BASE = "none"


@dataclass(frozen=True)
class Source:
    """A column: whose pictures, where they lie, and their scores."""

    label: str
    note: str
    """Which record this is."""
    folder: Path | None
    """None: its pictures are gone."""
    scores: Callable[[], pd.DataFrame]
    """Reads those of the first image of each prompt, by prompt id: prompt, task and a column per metric.

    Raises UserError, MissingAsset.
    """


@dataclass(frozen=True)
class Subject:
    """Columns with the same prompts and the same noise."""

    title: str
    lines: tuple[str, ...]
    base: Source | None
    methods: tuple[Source, ...]
    metrics: Mapping[str, bool]
    """Name -> whether higher is better."""


def of_comparison(
    comparison: Comparison, title: str = "", label: Callable[[Row], str] | None = None
) -> list[Subject]:
    """A base and its rows each; `label`: what columns are called, else what tells the rows apart.

    Of runs that differ in the seed alone, the first seed's pictures stand for all.
    """
    subjects: list[Subject] = []
    metrics = {column.label: column.higher_is_better for column in comparison.columns}
    for base, rows in _by_base(comparison.rows):
        names = [label(row) for row in rows] if label else _labels(rows)
        methods = [_of_row(row, name, comparison.columns) for row, name in zip(rows, names, strict=True)]
        first = _of_base([record for row in rows for record in row.records], comparison.columns)
        name = ", ".join(filter(None, [title, base.backbone]))
        subjects.append(Subject(name, (_said(comparison.protocol),), first, tuple(methods), metrics))
    return subjects


def of_evaluations(records: Sequence[EvalRecord]) -> list[Subject]:
    """Evaluations by protocol and backbone."""
    subjects = []
    for group in comparable(records):
        for backbone in dict.fromkeys(record.backbone for record in group):
            subjects.append(_evaluated([record for record in group if record.backbone == backbone]))
    return subjects


def _by_base(rows: Sequence[Row]) -> list[tuple[Row, list[Row]]]:
    groups: list[tuple[Row, list[Row]]] = []
    for row in rows:
        if row.is_base:
            groups.append((row, []))
        else:
            groups[-1][1].append(row)
    return [(base, found) for base, found in groups if found]


def _labels(rows: Sequence[Row]) -> list[str]:
    """The method; its reward and what else is special where several rows have that method."""
    methods = Counter(row.method for row in rows)
    rewards = {(row.method, row.reward) for row in rows}
    several = Counter(method for method, _ in rewards)
    labels = []
    for row in rows:
        told = [row.reward or "no reward"] if several[row.method] > 1 else []
        told += [row.setting] if row.setting and methods[row.method] > 1 else []
        labels.append(f"{row.method} ({', '.join(told)})" if told else row.method)
    return labels


def _of_row(row: Row, label: str, columns: Sequence[Column]) -> Source:
    record = min(row.records, key=lambda record: record.seed)
    others = f", seed {record.seed} of {', '.join(map(str, row.seeds))}" if len(row.seeds) > 1 else ""
    scores = partial(_scores, record, record.variant or BASE, columns)
    return Source(label, f"record {record.id}{others}", pictures.folder_of_method(record), scores)


def _of_base(records: Sequence[RunRecord], columns: Sequence[Column]) -> Source:
    """The base as one of its runs scored it: the one with the most metrics, since all have the same images."""
    record = max(records, key=lambda record: len(record.metrics))
    folders = map(pictures.folder_of_base, {record.base: record for record in records}.values())
    scores = partial(_scores, record, BASE, columns)
    return Source("base", "the untouched base", next(filter(None, folders), None), scores)


def _scores(record: RunRecord, variant: str, columns: Sequence[Column]) -> pd.DataFrame:
    """With the metrics that the comparison has of this record, under its names."""
    there = {(name, record.scorer_of(name), record.version_of(name)) for name in record.metrics}
    mine = {c.metric: c.label for c in columns if (c.metric, c.scorer, c.version) in there}
    scores = read_scores(record.folder / FILE, mine)
    first = scores[(scores["variant"] == variant) & (scores["image"] == 0)].set_index("prompt_id")
    return first[["prompt", "task", *mine]].rename(columns=mine)


def _evaluated(records: Sequence[EvalRecord]) -> Subject:
    """One backbone's."""
    sources = [_of_evaluation(record) for record in records]
    base = next((s for s, record in zip(sources, records, strict=True) if record.weights == BASE), None)
    methods = tuple(source for source in sources if source is not base)
    metrics = {name: metric.higher_is_better for r in records for name, metric in r.metrics.items()}
    return Subject(records[0].backbone, (_said(records[0].protocol),), base, methods, metrics)


def _of_evaluation(record: EvalRecord) -> Source:
    here = record.folder if (record.folder / pictures.MANIFEST).is_dir() else None
    label = "base" if record.weights == BASE else record.weights
    return Source(label, f"record {record.id}", here, partial(_scores_of_evaluation, record))


def _scores_of_evaluation(record: EvalRecord) -> pd.DataFrame:
    scores = read_scores(record.folder / FILE, record.metrics)
    return scores[scores["image"] == 0].set_index("prompt_id")


def _said(protocol: Protocol) -> str:
    return (
        f"{protocol.protocol}: {protocol.source} prompts, {protocol.num_steps} steps, guidance "
        f"{protocol.guidance_scale:g}, noise seed {protocol.seed}. The first image of each prompt; along a row the "
        "prompt and the noise are the same."
    )
