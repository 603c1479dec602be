"""What is drawn into one panel: points with their intervals, curves with their seeds, and an axis of costs."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from lpobench.records.curves import window_means
from lpobench.report import drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from lpobench.records.comparison import Entry
    from lpobench.records.curves import Curve

BESIDE = 0.13
"""How far from their mean single seeds stand, where values are 1 apart."""


def differences(panel: Axes, entries: Sequence[Entry | None], connected: Sequence[Sequence[int]]) -> None:
    """One point with its interval per entry, and a line through the entries at `connected` places."""
    found = {place: e for place, e in enumerate(entries) if e and e.difference is not None}
    places, shown = list(found), list(found.values())
    style = {**drawing.look(0), "linestyle": "none"}
    panel.errorbar(
        places, [e.difference for e in shown], errors(shown), capsize=3, markersize=5, linewidth=1.2, **style
    )
    for run in connected:
        through = [place for place in run if place in found]
        if len(through) > 1:
            heights = [found[place].difference for place in through]
            panel.plot(through, heights, color=style["color"], linewidth=1.2)
    for place, entry in found.items():
        if len(entry.by_seed) > 1:
            panel.plot([place + BESIDE] * len(entry.by_seed), entry.by_seed, ".", color="0.35", markersize=4)
    panel.axhline(0, color="0.45", linestyle=":", linewidth=1)
    panel.set_xlim(-0.5, len(entries) - 0.5)


def cost_axis(panel: Axes, costs: Sequence[float]) -> None:
    """From nothing; in decades where costs are far apart."""
    from matplotlib.ticker import EngFormatter, NullFormatter

    if max(costs) > 10 * min(costs):
        panel.set_xscale("log")
        panel.xaxis.set_minor_formatter(NullFormatter())
    else:
        panel.set_xlim(0, 1.1 * max(costs))
    panel.xaxis.set_major_formatter(EngFormatter(sep=""))


def errors(entries: Sequence[Entry]) -> list[list[float]]:
    """Distances to the ends of the intervals; none where there is no interval."""
    below = [0.0 if e.low is None else max(e.difference - e.low, 0.0) for e in entries]
    above = [0.0 if e.high is None else max(e.high - e.difference, 0.0) for e in entries]
    return [below, above]


def curve(panel: Axes, seeds: Sequence[Curve], number: int, name: str) -> None:
    """Mean over seeds at the updates that all have."""
    if not seeds:
        return
    length = min(len(curve.updates) for curve in seeds)
    lines = [window_means(curve.values, max(1, length // 16))[:length] for curve in seeds]
    updates = seeds[0].updates[:length]
    style = {key: text for key, text in drawing.look(number).items() if key != "marker"}
    panel.plot(
        updates, [fmean(values) for values in zip(*lines, strict=True)], label=name, linewidth=1.4, **style
    )
    if len(lines) > 1:
        low, high = ([pick(values) for values in zip(*lines, strict=True)] for pick in (min, max))
        panel.fill_between(updates, low, high, alpha=0.15, linewidth=0, color=style["color"])
