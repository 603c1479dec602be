"""How good reward models are, as tables and as a chart."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lpobench.report.line_chart import Chart, Line
from lpobench.report.tables import Section

if TYPE_CHECKING:
    import pandas as pd

    from lpobench.scoring.reward_quality import Quality

CORRELATIONS = {"aes_corr": "Aes-Corr", "clip_corr": "CLIP-Corr", "vqa_corr": "VQA-Corr"}


def quality_header(about: Mapping[str, Any]) -> list[str]:
    """What was measured, and on what."""
    return [
        f"{', '.join(about['rewards'])} on {about['backbone']}",
        f"{about['pairs']:,} pairs of {about['source']} ({', '.join(about['splits'])}), {about['win_lose']:,} with a "
        f"winner, under {about['captions']:,} prompts; noise seed {about['seed']}",
        "accuracy of pairs with a winner, plus or minus one standard error (clustered by prompt)",
    ]


def quality_sections(found: Quality) -> list[Section]:
    """A table per reward, then how often they agree."""
    sections = []
    for whole in found.overall.to_dict("records"):
        levels = found.levels[found.levels["reward"] == whole["reward"]]
        true = levels["n_true"].any()
        headers = [
            f"{whole['reward']}: t",
            "by label",
            *(["by truth"] if true else []),
            "ECE",
            *CORRELATIONS.values(),
        ]
        rows = [
            [
                row["t"],
                share(row["accuracy"], row["accuracy_se"]),
                *([share(row["accuracy_true"], row["accuracy_true_se"])] if true else []),
                *(number(row[name]) for name in ("ece", *CORRELATIONS)),
            ]
            for row in levels.to_dict("records")
        ]
        sections.append(Section(headers, rows, _note(whole)))
    return [*sections, *_agreement(found.agreement)]


def accuracy_chart(found: Quality, note: str = "") -> Chart:
    """Accuracy by label, one line per reward; against the truth dashed, where it is known."""
    lines, ticks = [], list(dict.fromkeys(found.levels["t"]))
    for reward, rows in found.levels.groupby("reward", sort=False):
        true = rows["accuracy_true"].tolist() if rows["n_true"].any() else []
        lines.append(Line(str(reward), rows["accuracy"].tolist(), rows["accuracy_se"].tolist(), true))
    dashed = "dashed: against the exact preference" if any(line.dashed for line in lines) else ""
    return Chart(
        "Pair accuracy by timestep",
        "timestep, from noise to image",
        "accuracy, band: one standard error",
        ticks,
        lines,
        "; ".join(part for part in (note, dashed) if part),
    )


def share(value: float, error: float) -> str:
    """`72.4% +- 1.9`."""
    if not math.isfinite(value):
        return "n/a"
    return f"{value:.1%} +- {100 * error:.1f}" if math.isfinite(error) else f"{value:.1%}"


def number(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "n/a"


def _note(whole: Mapping[str, Any]) -> str:
    by_truth = (
        f", {share(whole['accuracy_true'], whole['accuracy_true_se'])} by truth" if whole["n_true"] else ""
    )
    left_out = f"; {whole['left_out']} pairs left out: a score is not finite" if whole["left_out"] else ""
    return (
        f"over all t with noise: {share(whole['accuracy'], whole['accuracy_se'])} by label{by_truth}{left_out}; "
        f"for reward sum: mean = {whole['mean']:.4g}, std = {whole['spread']:.4g}"
    )


def _agreement(table: pd.DataFrame) -> list[Section]:
    if not len(table):
        return []
    names = [f"{a} and {b}" for a, b in zip(table["reward_a"], table["reward_b"], strict=True)]
    wide = table.assign(
        pair=names,
        cell=[share(*row) for row in zip(table["agreement"], table["agreement_se"], strict=True)],
    )
    levels, pairs = list(dict.fromkeys(table["t"])), list(dict.fromkeys(names))
    cells = wide.set_index(["t", "pair"])["cell"]
    return [Section(["rank alike: t", *pairs], [[t, *(cells[t, pair] for pair in pairs)] for t in levels])]
