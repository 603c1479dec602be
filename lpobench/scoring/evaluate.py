"""Scores of images: one row per image, one column per metric.

Images are rounded to 8 bits first: what is scored is what a PNG of it would hold.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import pandas as pd
from jaxtyping import Float, UInt8
from torch import Tensor

from lpobench.launch import memory
from lpobench.plugin import Metric
from lpobench.scoring.generate import Batch
from lpobench.types import Evaluator, Prompt

LABELS = ("variant", "prompt_id", "image", "prompt", "task")


@dataclass(frozen=True)
class Scored:
    """Scores of many images, and some of the images."""

    table: pd.DataFrame
    """Columns prompt_id, image, prompt, task ("" without one), then one per metric (float64)."""
    pictures: dict[str, UInt8[np.ndarray, "H W 3"]]
    """The first image of each prompt that was to be kept, by prompt id."""
    batch: int | None = None
    """Images that were made at a time, where eval.batch_size did not fit in memory."""

    @classmethod
    def merge(cls, parts: Sequence[Self]) -> Self:
        """The scores of all images, of those of consecutive shares; a share may be empty."""
        tables = [part.table for part in parts if len(part.table)]
        pictures = {name: image for part in parts for name, image in part.pictures.items()}
        cuts = [part.batch for part in parts if part.batch is not None]
        return cls(pd.concat(tables, ignore_index=True), pictures, min(cuts, default=None))


def evaluate(
    evaluators: Mapping[str, Evaluator], batches: Iterable[Batch], keep: Collection[str] = ()
) -> Scored:
    """Score every batch as it comes; `keep` lists ids of prompts whose first image is kept."""
    tables, pictures, columns = [], {}, metric_columns(evaluators)
    for batch in batches:
        images = to_bytes(batch.images)
        exact = batch.images.new_tensor(images).movedim(-1, 1) / 255
        scores = [_finite(name, evaluator, exact, batch.prompts) for name, evaluator in evaluators.items()]
        values = pd.concat(scores, axis=1)[list(columns)].set_axis(list(columns.values()), axis=1)
        tables.append(pd.concat([_labels(batch), values.astype(float)], axis=1))
        for prompt, index, image in zip(batch.prompts, batch.indices, images, strict=True):
            if index == 0 and prompt.id in keep:
                pictures[prompt.id] = image
    none = pd.DataFrame(columns=[*LABELS[1:], *columns.values()])
    return Scored(pd.concat(tables, ignore_index=True) if tables else none, pictures)


def metric_columns(evaluators: Mapping[str, Evaluator]) -> dict[tuple[str, str], str]:
    """(evaluator, metric) -> column: the metric's name, or `evaluator.metric` where that name is taken."""
    names = [metric for evaluator in evaluators.values() for metric in evaluator.metrics]
    taken = {*LABELS, *(name for name in names if names.count(name) > 1)}
    return {
        (owner, metric): f"{owner}.{metric}" if metric in taken else metric
        for owner, evaluator in evaluators.items()
        for metric in evaluator.metrics
    }


def metrics_by_column(evaluators: Mapping[str, Evaluator]) -> dict[str, Metric]:
    """What each metric column means."""
    return {
        column: evaluators[owner].metrics[metric]
        for (owner, metric), column in metric_columns(evaluators).items()
    }


def to_bytes(images: Float[Tensor, "n 3 H W"]) -> UInt8[np.ndarray, "n H W 3"]:
    """8-bit pictures of images in [0, 1]."""
    return (images.movedim(1, -1).float() * 255).round().byte().cpu().numpy()


def _labels(batch: Batch) -> pd.DataFrame:
    rows = [
        {"prompt_id": prompt.id, "image": index, "prompt": prompt.text, "task": prompt.tags.get("task", "")}
        for prompt, index in zip(batch.prompts, batch.indices, strict=True)
    ]
    return pd.DataFrame(rows)


def score_images(name: str, evaluator: Evaluator, images: Tensor, prompts: list[Prompt]) -> pd.DataFrame:
    """One evaluator's metrics (float64), a row per image in [0, 1]; images that do not fit in memory together are
    scored in halves. Every scoring goes through here. Raises RuntimeError for an evaluator that breaks its contract.
    """
    try:
        scores = evaluator.score(images, prompts)[list(evaluator.metrics)].reset_index(drop=True)
    except RuntimeError as error:
        if len(prompts) == 1 or not memory.is_out_of_memory(error):
            raise
    else:
        if len(scores) != len(prompts):
            raise RuntimeError(f"evaluator {name} gave {len(scores)} rows for {len(prompts)} images")
        return scores.astype(float)
    memory.free()
    half = len(prompts) // 2
    parts = (images[:half], prompts[:half]), (images[half:], prompts[half:])
    return pd.concat([score_images(name, evaluator, *part) for part in parts], ignore_index=True)


def _finite(name: str, evaluator: Evaluator, images: Tensor, prompts: list[Prompt]) -> pd.DataFrame:
    """One evaluator's columns, as (evaluator, metric)."""
    scores = score_images(name, evaluator, images, prompts)
    if bad := [metric for metric in scores if not np.isfinite(scores[metric].to_numpy()).all()]:
        raise RuntimeError(f"evaluator {name}: {', '.join(bad)} is not finite for every image")
    return scores.set_axis(pd.MultiIndex.from_product([[name], scores.columns]), axis=1)
