"""Paired statistics over prompts: the images of one prompt are averaged before anything is compared.

Scores are comparable between images of the same prompt only, so the unit is the difference method - base on a
prompt, both drawn from the same noise. The interval is a bootstrap over prompt texts; it says how the mean
difference would move with other prompts, not how it would move with another training seed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from lpobench.records.bootstrap import intervals
from lpobench.records.record import Group, Paired, Protocol

KEY = ["prompt_id", "image"]
METHOD = " of method"


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
    """Confidence interval of the mean difference, resampling texts with all that belongs to them; see `intervals`."""
    low, high = intervals(np.asarray(differences)[:, None], texts, confidence, resamples, seed)
    return (None, None) if low is None else (float(low[0]), float(high[0]))


def compare(
    base: pd.DataFrame, method: pd.DataFrame, higher_is_better: Mapping[str, bool], protocol: Protocol
) -> tuple[dict[str, Paired], dict[str, dict[str, Group]]]:
    """Every metric of two score tables, paired; and its means by task, for images that have one."""
    both = _merged(base, method, higher_is_better)
    metrics = _compare_all(both, higher_is_better, protocol)
    groups = {name: _by_task(_metric(both, name)) for name in higher_is_better}
    return metrics, groups


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
