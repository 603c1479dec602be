"""Scores of images: one row per image, one column per metric.

Images are rounded to 8 bits first: what is scored is what a PNG of it would hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import pandas as pd
from jaxtyping import Float, UInt8
from torch import Tensor

from lpobench.launch import memory
from lpobench.plugin import Metric
from lpobench.types import Evaluator, Prompt

LABELS = ("variant", "prompt_id", "image", "prompt", "task")


class Measures(Protocol):
    """An evaluator, loaded or not."""

    @property
    def metrics(self) -> Mapping[str, Metric]: ...


def metric_columns(evaluators: Mapping[str, Measures]) -> dict[tuple[str, str], str]:
    """(evaluator, metric) -> column: the metric's name, or `evaluator.metric` where that name is taken."""
    names = [metric for evaluator in evaluators.values() for metric in evaluator.metrics]
    taken = {*LABELS, *(name for name in names if names.count(name) > 1)}
    return {
        (owner, metric): f"{owner}.{metric}" if metric in taken else metric
        for owner, evaluator in evaluators.items()
        for metric in evaluator.metrics
    }


def metrics_by_column(evaluators: Mapping[str, Measures]) -> dict[str, Metric]:
    """What each metric column means."""
    return {
        column: evaluators[owner].metrics[metric]
        for (owner, metric), column in metric_columns(evaluators).items()
    }


def to_bytes(images: Float[Tensor, "n 3 H W"]) -> UInt8[np.ndarray, "n H W 3"]:
    """8-bit pictures of images in [0, 1]."""
    return (images.movedim(1, -1).float() * 255).round().byte().cpu().numpy()


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
