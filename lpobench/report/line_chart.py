"""A line chart of shares (0 to 1) with a band of one standard error around each line, as PNG and SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lpobench.report.drawing import COLORS, MARKERS, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZE = (8.6, 5.0)
CHANCE, STEP = 0.5, 0.05


@dataclass(frozen=True)
class Line:
    """One thing measured at every tick; NaN where it was not."""

    label: str
    values: Sequence[float]
    errors: Sequence[float]
    dashed: Sequence[float] = ()
    """The same against something else, drawn dashed and without a band."""


@dataclass(frozen=True)
class Chart:
    """What is drawn. The two files of `save` show the same."""

    title: str
    x_label: str
    y_label: str
    ticks: Sequence[str]
    lines: Sequence[Line]
    note: str = ""
    """Below, in small print."""

    def save(self, folder: Path, name: str) -> list[Path]:
        """Write `name`.png and `name`.svg; the same chart gives the same bytes."""
        return save(self.figure(), folder, name)

    def figure(self) -> Figure:
        from matplotlib.figure import Figure
        from matplotlib.ticker import PercentFormatter

        figure = Figure(SIZE, layout="constrained")
        axes = figure.subplots()
        places = range(len(self.ticks))
        for number, line in enumerate(self.lines):
            look = {"color": COLORS[number % len(COLORS)]}
            axes.plot(places, line.values, marker=MARKERS[number % len(MARKERS)], label=line.label, **look)
            spread = [error if math.isfinite(error) else 0.0 for error in line.errors]
            low, high = zip(*((v - e, v + e) for v, e in zip(line.values, spread, strict=True)), strict=True)
            axes.fill_between(places, low, high, alpha=0.18, linewidth=0, **look)
            if len(line.dashed):
                axes.plot(places, line.dashed, linestyle="--", linewidth=1.2, **look)
        axes.axhline(CHANCE, color="0.45", linestyle=":", linewidth=1)
        axes.set_ylim(*self.limits())
        axes.set_xticks(places, self.ticks, rotation=45 if len(self.ticks) > 12 else 0)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.grid(axis="y", color="0.9")
        axes.spines[["top", "right"]].set_visible(False)
        axes.set(xlabel=self.x_label, ylabel=self.y_label)
        axes.set_title(self.title, loc="left")
        axes.legend(frameon=False, loc="upper left", ncols=3)
        if self.note:
            figure.supxlabel(self.note, fontsize=7, x=0.99, ha="right", color="0.4")
        return figure

    def limits(self) -> tuple[float, float]:
        """Of the y axis: everything, and chance, to the next twentieth."""
        found = [CHANCE]
        for line in self.lines:
            spread = [
                (v, e if math.isfinite(e) else 0.0) for v, e in zip(line.values, line.errors, strict=True)
            ]
            found += [v + e for v, e in spread] + [v - e for v, e in spread] + list(line.dashed)
        found = [value for value in found if math.isfinite(value)]
        low, high = math.floor(min(found) / STEP) * STEP, math.ceil(max(found) / STEP - 1e-9) * STEP
        return max(low, 0.0), min(max(high, low + STEP), 1.0)
