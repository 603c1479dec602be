"""How well rewards foretell finished images, as tables and as charts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lpobench.report.line_chart import Chart, Line
from lpobench.report.quality import share
from lpobench.report.tables import Section

if TYPE_CHECKING:
    import pandas as pd


def foresight_header(about: Mapping[str, Any]) -> list[str]:
    """What was measured, and on what."""
    return [
        f"{', '.join(about['rewards'])} on {about['backbone']}",
        f"{about['prompts']:,} prompts ({about['distinct_prompts']:,} texts), {about['num_candidates']} candidates a "
        f"step, each sampled to its end at eta 0; noise seed {about['seed']}",
        "ranks right: pairs of candidates ranked as the metric ranks their images; gain: the metric after the reward's "
        "best candidate less after its worst; plus or minus one standard error, clustered by prompt",
    ]


def foresight_sections(found: pd.DataFrame) -> list[Section]:
    """A table per metric, two columns per reward, and the most that a choice could gain."""
    sections = []
    for metric, table in found.groupby("metric", sort=False):
        rewards = list(dict.fromkeys(table["reward"]))
        cells = table.set_index(["t", "reward"]).to_dict("index")
        rows = [
            [
                t,
                *(text for reward in rewards for text in _cell(cells[t, reward])),
                signed(cells[t, rewards[0]]["most"]),
            ]
            for t in dict.fromkeys(table["t"])
        ]
        columns = (f"{reward}{what}" for reward in rewards for what in (" ranks right", ": gain"))
        sections.append(Section([f"{metric}: t", *columns, "most"], rows))
    return sections


def foresight_chart(metric: str, rows: pd.DataFrame, note: str) -> Chart:
    """Accuracy by timestep, one line per reward."""
    lines = [
        Line(str(reward), of_reward["accuracy"].tolist(), of_reward["accuracy_se"].tolist())
        for reward, of_reward in rows.groupby("reward", sort=False)
    ]
    return Chart(
        f"Candidates ranked as their finished images, by {metric}",
        "timestep of the step, from noise to image",
        "share of pairs, band: one standard error",
        list(dict.fromkeys(rows["t"])),
        lines,
        note,
    )


def signed(value: float, error: float = math.nan) -> str:
    """`+0.031 +- 0.004`."""
    if not math.isfinite(value):
        return "n/a"
    return f"{value:+.3f} +- {error:.3f}" if math.isfinite(error) else f"{value:+.3f}"


def _cell(row: Mapping[str, float]) -> list[str]:
    return [share(row["accuracy"], row["accuracy_se"]), signed(row["gain"], row["gain_se"])]
