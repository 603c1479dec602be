"""Scores by task, as GenEval reports them: a mean for each task, and the mean of those, which weighs tasks alike."""

from __future__ import annotations

import pandas as pd


def by_task(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """A row per task, in the order in which they come: images, mean over images, prompts, and the mean over prompts
    of their best image ("any": of a score that is 0 or 1, the share of prompts with a correct image).

    `table` has the columns prompt_id, task and `column`, a row per image. Raises KeyError.
    """
    rows = []
    for task, images in table.groupby("task", sort=False):
        best = images.groupby("prompt_id", sort=False)[column].max()
        rows.append((task, len(images), images[column].mean(), len(best), best.mean()))
    return pd.DataFrame(rows, columns=["task", "images", "mean", "prompts", "any"]).set_index("task")


def overall(table: pd.DataFrame, column: str) -> float:
    """The unweighted mean of the tasks' means; without tasks, the mean over images."""
    return float(by_task(table, column)["mean"].mean())
