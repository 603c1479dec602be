"""How cost grows, drawn: time and work over each axis, both logarithmic, as PNG or SVG."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lpobench.records.bench import Measurement
from lpobench.report import drawing

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_growth(found: Measurement, path: Path) -> None:
    """A panel per axis: median seconds with quartiles, and the work scaled to meet them at the first value."""
    kind = "svg" if path.suffix == ".svg" else "png"
    path.write_bytes(drawing.rendered(_figure(found), "growth", kind))


def _figure(found: Measurement) -> Figure:
    from matplotlib.ticker import FuncFormatter, NullLocator

    values_of = found.setup["values"]
    figure, panels = drawing.panels(len(values_of), "one round of sampling: seconds")
    for panel, (axis, values) in zip(panels, values_of.items(), strict=True):
        timings = [found.timings[f"{axis} {value}"] for value in values]
        work = [found.flops[f"{axis} {value}"] for value in values]
        medians = [timing.median for timing in timings]
        errors = [[t.median - t.low for t in timings], [t.high - t.median for t in timings]]
        panel.errorbar(values, medians, errors, capsize=3, label="time", **drawing.look(0))
        scaled = [flops * medians[0] / work[0] for flops in work]
        panel.plot(values, scaled, label="work", **{**drawing.look(1), "linestyle": "--"})
        panel.set(xscale="log", yscale="log")
        panel.set_xticks(values, [str(value) for value in values])
        panel.xaxis.set_minor_locator(NullLocator())
        panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        panel.yaxis.set_minor_formatter(FuncFormatter(_some))
        time, slope = (found.numbers[f"{axis}: exponent of {what}"] for what in ("time", "work"))
        drawing.tidy(panel, f"{axis}: time to the {time:.2f}, work to the {slope:.2f}")
        panel.tick_params(which="minor", labelsize=8)
    drawing.legend(figure, panels[0])
    return figure


def _some(value: float, _: int) -> str:
    """Labels of two more ticks in a decade."""
    return f"{value:g}" if f"{value:e}"[0] in "25" else ""
