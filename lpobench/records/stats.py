"""Paired statistics over prompts: the images of one prompt are averaged before anything is compared.

Scores are comparable between images of the same prompt only, so the unit is the difference method - base on a
prompt, both drawn from the same noise. The interval is a bootstrap over prompt texts; it says how the mean
difference would move with other prompts, not how it would move with another training seed.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from lpobench.plugin import UserError
from lpobench.records.record import Group, Paired, Protocol, RunRecord
from lpobench.records.scores import FILE, read_scores

BATCH = 1000  # resamples in memory at once
KEY = ["prompt_id", "image"]
METHOD = " of method"
FREE = ("seed", "device")
"""Parts of a spec in which pooled runs may differ."""


def paired(
    base: Sequence[float],
    method: Sequence[float],
    prompts: Sequence[str],
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
    *,
    texts: Sequence[str] | None = None,
    higher_is_better: bool = True,
) -> Paired:
    """Compare two variants image by image; entry i of all sequences belongs to one image.

    `prompts` are ids. A list may hold one text under several ids, each with its own noise; `texts` names it,
    and the interval then treats those entries as one draw of a prompt.
    """
    table = pd.DataFrame({"base": np.asarray(base, float), "method": np.asarray(method, float)})
    table = table.assign(prompt_id=list(prompts), prompt=list(prompts if texts is None else texts))
    return _compare(_by_prompt(table), confidence, resamples, seed, higher_is_better)


def interval(
    differences: np.ndarray, texts: Sequence[str], confidence: float, resamples: int, seed: int
) -> tuple[float, float] | tuple[None, None]:
    """Bootstrap confidence interval of the mean difference, resampling texts with all that belongs to them.

    BCa; its percentile form where BCa does not exist (its bias correction needs resampled means on both sides
    of the mean). Where all texts have the same mean difference no resampling can say more: both ends are that
    value. Fewer than two texts have no interval.
    """
    groups = pd.Series(differences).groupby(np.asarray(texts, object), sort=True)
    sums, sizes = groups.sum().to_numpy(), groups.size().to_numpy(float)
    if len(sums) < 2:
        return None, None
    if np.ptp(sums / sizes) == 0:
        return float(sums[0] / sizes[0]), float(sums[0] / sizes[0])
    for kind in ("BCa", "percentile"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", stats.DegenerateDataWarning)
            found = stats.bootstrap(
                (sums, sizes),
                lambda total, count, axis: total.sum(axis) / count.sum(axis),
                paired=True,
                vectorized=True,
                n_resamples=resamples,
                batch=BATCH,
                confidence_level=confidence,
                method=kind,
                rng=np.random.default_rng(seed),
            ).confidence_interval
        if np.isfinite(found).all():
            break
    return float(found.low), float(found.high)


def compare(
    base: pd.DataFrame, method: pd.DataFrame, higher_is_better: Mapping[str, bool], protocol: Protocol
) -> tuple[dict[str, Paired], dict[str, dict[str, Group]]]:
    """Every metric of two score tables, paired; and its means by task, for images that have one."""
    both = _merged(base, method, higher_is_better)
    metrics = _compare_all(both, higher_is_better, protocol)
    groups = {name: _by_task(_metric(both, name)) for name in higher_is_better}
    return metrics, groups


@dataclass(frozen=True)
class Pooled:
    """One method against the base over several training seeds."""

    records: tuple[RunRecord, ...]
    """In the order of their seeds."""
    metrics: dict[str, Paired]
    """Per prompt, the method's score is its mean over the seeds; the interval is over prompts."""
    per_seed: dict[str, list[float]]
    """Per metric, the mean paired difference of each run: how much training seeds differ."""


def pooled(records: Sequence[RunRecord]) -> Pooled:
    """Pool runs that differ in the training seed alone; UserError when they differ in anything else."""
    _check_same(records)
    records = tuple(sorted(records, key=lambda record: record.seed))
    higher_is_better = {name: metric.higher_is_better for name, metric in records[0].metrics.items()}
    tables = [_read(record, higher_is_better) for record in records]
    for record, table in zip(records, tables, strict=True):
        if not table[KEY].equals(tables[0][KEY]):
            raise UserError(f"runs to pool must share their prompts; {record.id} and {records[0].id} do not")
    metrics = _compare_all(pd.concat(tables), higher_is_better, records[0].protocol)
    return Pooled(records, metrics, {name: [r.metrics[name].difference for r in records] for name in metrics})


def families(records: Sequence[RunRecord]) -> list[list[RunRecord]]:
    """Records grouped by everything but the training seed, groups in the order they first appear."""
    groups: list[list[RunRecord]] = []
    for record in records:
        for group in groups:
            if _recipe(group[0]) == _recipe(record):
                group.append(record)
                break
        else:
            groups.append([record])
    return groups


def _merged(base: pd.DataFrame, method: pd.DataFrame, metrics: Iterable[str]) -> pd.DataFrame:
    """One row per image, the method's scores beside the base's."""
    theirs = method[[*KEY, *metrics]].rename(columns={name: name + METHOD for name in metrics})
    both = base.merge(theirs, on=KEY, validate="1:1").sort_values(KEY, ignore_index=True)
    assert len(both) == len(base) == len(method), "the two variants were not scored on the same images"
    return both


def _metric(both: pd.DataFrame, name: str) -> pd.DataFrame:
    """One metric of merged tables, as columns base and method."""
    return both[["prompt_id", "prompt", "task"]].assign(base=both[name], method=both[name + METHOD])


def _compare_all(both: pd.DataFrame, higher: Mapping[str, bool], protocol: Protocol) -> dict[str, Paired]:
    settings = protocol.confidence, protocol.bootstrap_samples, protocol.seed
    return {name: _compare(_by_prompt(_metric(both, name)), *settings, higher[name]) for name in higher}


def _by_prompt(images: pd.DataFrame) -> pd.DataFrame:
    """Means of base and method per prompt id, with the prompt's text."""
    return images.groupby("prompt_id", sort=True).agg({"base": "mean", "method": "mean", "prompt": "first"})


def _by_task(images: pd.DataFrame) -> dict[str, Group]:
    tasks = images[images["task"] != ""].groupby("task", sort=True)
    return {
        task: Group(
            num_prompts=rows["prompt_id"].nunique(),
            mean_base=rows["base"].mean(),
            mean_method=rows["method"].mean(),
        )
        for task, rows in tasks
    }


def _compare(by_prompt: pd.DataFrame, confidence: float, resamples: int, seed: int, higher: bool) -> Paired:
    difference = (by_prompt["method"] - by_prompt["base"]).to_numpy()
    low, high = interval(difference, by_prompt["prompt"], confidence, resamples, seed)
    gain = difference if higher else -difference
    return Paired(
        mean_base=by_prompt["base"].mean(),
        mean_method=by_prompt["method"].mean(),
        difference=difference.mean(),
        low=low,
        high=high,
        win_rate=np.mean(gain > 0) + np.mean(gain == 0) / 2,
        num_prompts=len(difference),
        higher_is_better=higher,
    )


def _read(record: RunRecord, metrics: Iterable[str]) -> pd.DataFrame:
    scores = read_scores(record.folder / FILE, metrics)
    base, method = (scores[scores["variant"] == variant] for variant in ("none", record.variant))
    return _merged(base, method, metrics)


def _recipe(record: RunRecord) -> tuple:
    """Everything that decides a run's result but the seed."""
    spec = {key: value for key, value in record.spec.items() if key not in FREE}
    return spec, record.limit, record.trained_reward is None, record.protocol


def _check_same(records: Sequence[RunRecord]) -> None:
    if not records or not all(record.trained for record in records):
        raise UserError("nothing to pool: no run, or one that trained nothing")
    first, seeds = records[0], [record.seed for record in records]
    if len(set(seeds)) < len(seeds):
        raise UserError(
            f"runs to pool must have different training seeds; theirs are {', '.join(map(str, seeds))}"
        )
    for record in records[1:]:
        different = [
            key for key in record.spec if key not in FREE and record.spec[key] != first.spec.get(key)
        ]
        if different:
            raise UserError(
                f"runs to pool must differ in the seed alone; {record.id} and {first.id} differ in "
                f"{', '.join(different)}"
            )
        if _recipe(record) != _recipe(first):
            raise UserError(f"runs to pool must share a protocol; {record.id} and {first.id} do not")
