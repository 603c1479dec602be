"""The end of a run: scores, sample grid and, last of all, the record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from lpobench.launch import ranks
from lpobench.learning.train import TrainResult
from lpobench.plugin import Metric
from lpobench.prepare import Parts
from lpobench.records import provenance
from lpobench.records.record import Checkpoint, Cost, RunRecord, inventory
from lpobench.records.scores import FILE, write_scores
from lpobench.records.stats import compare
from lpobench.report.figures import Column, grid
from lpobench.scoring.evaluate import LABELS, metric_columns, metrics_by_column
from lpobench.scoring.variants import Scored, protocol_of
from lpobench.slots import name_of

GRID, METRICS = "grid.png", "metrics.jsonl"
LORA, DENOISER = "lora", "denoiser"
"""Folders of trained weights: a run has the one or the other."""


@dataclass(frozen=True)
class Outcome:
    """What a run found."""

    started: datetime
    limit: int | None
    training: TrainResult | None
    base: Scored
    method: Scored
    """The base again when nothing was trained and no checkpoint loaded."""
    checkpoint: Checkpoint | None = None
    """Whose scores `method` holds, when it is a checkpoint."""


def conclude(parts: Parts, folder: Path, outcome: Outcome) -> RunRecord:
    """Write scores.csv, grid.png and record.json into the run folder. To be called by all: the main one writes."""
    spent = Spent.by_all(parts)
    return ranks.from_main(lambda: write(parts, folder, outcome, spent))


@dataclass(frozen=True)
class Spent:
    """What a run took."""

    costs: dict[str, Cost]
    """Seconds of the main process, denoiser work of all."""
    peak_memory: int
    """Of the process that needed most."""

    @classmethod
    def by_all(cls, parts: Parts) -> Spent:
        """To be called by all processes."""
        phases = ranks.gather(parts.costs.phases)
        peaks = ranks.gather(peak_memory(parts.policy.backbone.device))
        return cls({name: _summed(name, phases) for name in phases[0]}, max(peaks))


def _summed(name: str, phases: list[dict[str, Cost]]) -> Cost:
    costs = [each[name] for each in phases if name in each]
    work = {kind: sum(getattr(cost, kind) for cost in costs) for kind in Cost.model_fields}
    return Cost(**{**work, "seconds": costs[0].seconds})


def write(parts: Parts, folder: Path, outcome: Outcome, spent: Spent) -> RunRecord:
    """The files of a finished run, the record last."""
    variants = {"none": outcome.base}
    if outcome.training or parts.spec.method.samples:
        variants[name_of(parts.spec.method)] = outcome.method
    elif outcome.checkpoint:
        variants[outcome.checkpoint.name] = outcome.method
    metrics = metrics_of(parts)
    tables = [scored.table.assign(variant=name) for name, scored in variants.items()]
    scores = pd.concat(tables, ignore_index=True)[[*LABELS, *metrics]]
    write_scores(scores, folder / FILE)
    check = next((name for name in metrics if scores[name].isin((0.0, 1.0)).all()), None)
    draw(folder / GRID, variants, check)
    return record_of(parts, folder, outcome, spent, check).write(folder)


def record_of(parts: Parts, folder: Path, outcome: Outcome, spent: Spent, check: str | None) -> RunRecord:
    """The record of a run whose files are in its folder."""
    spec, device = parts.spec, parts.policy.backbone.device
    protocol = protocol_of(spec.eval, parts.eval_prompts, parts.judges)
    higher_is_better = {name: metric.higher_is_better for name, metric in metrics_of(parts).items()}
    cuts = [scored.batch for scored in (outcome.base, outcome.method) if scored.batch is not None]
    metrics, groups = compare(outcome.base.table, outcome.method.table, higher_is_better, protocol)
    return RunRecord(
        id=folder.name,
        spec=spec.model_dump(mode="json"),
        backbone=name_of(spec.backbone),
        method=name_of(spec.method),
        reward=name_of(spec.reward) if spec.reward else None,
        seed=spec.seed,
        limit=outcome.limit,
        trained=outcome.training is not None,
        sampled=spec.method.samples,
        checkpoint=outcome.checkpoint,
        trained_reward=parts.trained_reward,
        reward_seconds=parts.reward_seconds,
        base=parts.base,
        started=outcome.started,
        finished=datetime.now(UTC),
        versions=provenance.versions(),
        git=provenance.git_state(),
        device=device_name(device),
        processes=ranks.world(),
        costs=spent.costs,
        reused=outcome.base.reused,
        peak_memory_bytes=spent.peak_memory,
        image_batch=min(cuts, default=None),
        protocol=protocol,
        metrics=metrics,
        scored_by=scored_by(parts),
        trained_on=trained_on(parts),
        groups=groups,
        check=check,
        training=asdict(outcome.training) if outcome.training else None,
        files=inventory(folder, (FILE, GRID, METRICS, LORA, DENOISER)),
    )


def metrics_of(parts: Parts) -> dict[str, Metric]:
    """What each column of scores means."""
    return metrics_by_column({judge.label: judge for judge in parts.judges})


def scored_by(parts: Parts) -> dict[str, str]:
    """Metric column -> the judge it is of."""
    columns = metric_columns({judge.label: judge for judge in parts.judges})
    return {column: owner for (owner, _), column in columns.items()}


def trained_on(parts: Parts) -> tuple[str, ...]:
    """The metric columns that the reward is, or has as a part, where a method uses one."""
    reward = parts.spec.reward
    if reward is None:
        return ()
    columns = metric_columns({judge.label: judge for judge in parts.judges})
    read = {(name_of(reward), name_of(reward)), *reward.reads()}
    return tuple(column for source, column in columns.items() if source in read)


def draw(path: Path, variants: Mapping[str, Scored], check: str | None) -> None:
    """The sample grid: the kept pictures of every variant, marked with the yes/no metric if there is one."""
    shown = list(next(iter(variants.values())).pictures)
    if not shown:
        return
    captions: dict[str, str] = {}
    columns = []
    for name, scored in variants.items():
        first = scored.table[scored.table["image"] == 0].set_index("prompt_id").loc[shown]
        captions = first["prompt"].to_dict()
        passed = None if check is None else (first[check] == 1).to_list()
        columns.append(Column(name, np.stack([scored.pictures[prompt_id] for prompt_id in shown]), passed))
    grid(path, columns, [captions[prompt_id] for prompt_id in shown])


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads" if device.type == "cpu" else device.type


def peak_memory(device: torch.device) -> int:
    """Bytes torch allocated on the accelerator when there is one, else resident memory of the process."""
    return (
        torch.cuda.max_memory_allocated(device) if device.type == "cuda" else provenance.peak_resident_bytes()
    )
