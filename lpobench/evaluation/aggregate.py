"""The third stage: scores to means, a table and a record."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

import pandas as pd

from lpobench.conclude import device_name
from lpobench.data.pairs.shards import read_claim, write_atomic
from lpobench.evaluation.execute import BASE
from lpobench.evaluation.gaps import gaps
from lpobench.evaluation.job import Job
from lpobench.launch import ranks
from lpobench.plugin import Metric
from lpobench.prepare import device_of
from lpobench.records import provenance
from lpobench.records.evaluation import FILE, EvalRecord, Mean, TaskMean
from lpobench.records.record import Checkpoint, inventory
from lpobench.records.scores import FILE as SCORES
from lpobench.records.stats import interval
from lpobench.report.evaluations import to_markdown
from lpobench.scoring.evaluate import metric_columns, metrics_by_column
from lpobench.scoring.staged import score_table
from lpobench.scoring.variants import protocol_of

TABLE = "table.md"


def aggregate(job: Job) -> EvalRecord | dict[str, int]:
    """Write scores.csv, table.md and, last, the record; or, while scores are missing, of how many images by scorer."""
    scores, missing = score_table(job.share, job.scorers)
    if scores is None:
        return missing
    record = record_of(job, scores)
    write(job, SCORES, scores.to_csv(index=False, lineterminator="\n"))
    write(job, TABLE, to_markdown([record]))
    record = record.model_copy(update={"files": inventory(job.folder, (SCORES, TABLE)), "folder": job.folder})
    write(job, FILE, record.document())
    return record


def write(job: Job, name: str, text: str) -> None:
    write_atomic(job.folder / name, text.encode(), job.share.scratch)


def record_of(job: Job, scores: pd.DataFrame) -> EvalRecord:
    """Everything the record says but its files."""
    part, spec, base = job.part, job.part.spec, read_claim(job.folder / BASE)
    columns = metric_columns({scorer.label: scorer for scorer in job.scorers})
    meaning = metrics_by_column({scorer.label: scorer for scorer in job.scorers})
    tables = {
        scorer.label: scores[[columns[scorer.label, name] for name in scorer.metrics]].set_axis(
            list(scorer.metrics), axis=1
        )
        for scorer in job.scorers
    }
    checkpoint = None
    if part.checkpoint is not None:
        checkpoint = Checkpoint(name=part.weights, loaded=base["loaded"], sha256=part.checkpoint)
    return EvalRecord(
        id=job.folder.name,
        backbone=part.backbone,
        weights=part.weights,
        checkpoint=checkpoint,
        backbone_settings=spec.backbone.model_dump(mode="json"),
        precision=spec.train.precision,
        base=base["base"],
        protocol=protocol_of(job.part.settings, job.share.prompts, job.scorers, job.part.protocol.id),
        means=part.protocol.means,
        limits=part.protocol.limits,
        cut=part.cut,
        finished=datetime.now(UTC),
        versions=provenance.versions(),
        git=provenance.git_state(),
        device=device_name(device_of(spec)),
        processes=ranks.world(),
        costs=job.costs.phases,
        made=job.made,
        metrics={name: mean_of(scores, name, metric, job) for name, metric in meaning.items()},
        tasks={name: by_task(scores, name) for name in meaning},
        shown=tuple(name for name in meaning if scores[name].isin((0.0, 1.0)).all()) or tuple(meaning)[:1],
        suites=suites_of(job, scores, tables),
        differences=gaps(job.scorers, scores),
        scorers={scorer.label: scorer.facts() for scorer in job.scorers},
        files={},
    )


def mean_of(scores: pd.DataFrame, name: str, metric: Metric, job: Job) -> Mean:
    """Over prompts, with its bootstrap interval."""
    settings = job.part.settings
    by_prompt = scores.groupby("prompt_id", sort=True).agg({name: "mean", "prompt": "first"})
    low, high = interval(
        by_prompt[name].to_numpy(),
        by_prompt["prompt"],
        settings.confidence,
        settings.bootstrap_samples,
        settings.seed,
    )
    return Mean(
        mean=by_prompt[name].mean(),
        low=low,
        high=high,
        num_prompts=len(by_prompt),
        num_images=len(scores),
        higher_is_better=metric.higher_is_better,
        unit=metric.unit,
    )


def by_task(scores: pd.DataFrame, name: str) -> dict[str, TaskMean]:
    tasks = scores[scores["task"] != ""].groupby("task", sort=True)
    return {
        task: TaskMean(mean=rows[name].mean(), num_prompts=rows["prompt_id"].nunique())
        for task, rows in tasks
    }


def suites_of(
    job: Job, scores: pd.DataFrame, tables: Mapping[str, pd.DataFrame]
) -> dict[str, dict[str, float]]:
    """What evaluators say of the whole suite."""
    about = scores[["prompt_id", "image", "prompt", "task"]]
    found = {
        scorer.label: scorer.settings.summary(pd.concat([about, tables[scorer.label]], axis=1))
        for scorer in job.scorers
    }
    return {label: numbers for label, numbers in found.items() if numbers}
