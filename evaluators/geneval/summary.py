"""What the official tool prints of its verdicts: each task, and the mean of the tasks, which weighs them alike."""

from __future__ import annotations

import pandas as pd

from lpobench.data.geneval import TASKS


def summary(scores: pd.DataFrame, metric: str) -> dict[str, float]:
    """`overall` and each task: means over images, shares of 1; `any ...`: shares of prompts with a correct image.

    `scores` has the columns prompt_id, task and the metric, a row per image. The overall one is the unweighted mean of
    the tasks that are there.
    """
    best = scores.groupby(["task", "prompt_id"], sort=False)[metric].max()
    parts = {
        "": scores.groupby("task", sort=False)[metric].mean(),
        "any ": best.groupby("task", sort=False).mean(),
    }
    found = {}
    for prefix, by_task in parts.items():
        tasks = [task for task in (*TASKS, *by_task.index.difference(TASKS)) if task in by_task.index]
        found[f"{prefix}overall"] = float(by_task.mean())
        found |= {f"{prefix}{task}": float(by_task[task]) for task in tasks}
    return found
