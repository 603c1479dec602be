"""Figures of a report: what changed in training, what a sweep shows, which pairs were used, what a gain costs.

Drawn from the same comparisons as the tables, and from what the runs logged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lpobench.plugin import MissingAsset
from lpobench.records.comparison import Column, Comparison, Row
from lpobench.records.curves import Curve, read_curves
from lpobench.report import drawing, marks
from lpobench.report.ablation import ascending, value
from lpobench.report.comparison import TRAINED_ON, headline
from lpobench.report.report import Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lpobench.records.sweep import Sweep

LINES, PANELS = 8, 6
"""Drawn in one figure, at most."""
LOGGED = ("reward", "loss", "accuracy", "margin", "round_rows", "advantage", "approx_kl", "kl", "grad_norm")
"""Of what a run logs: what is drawn, the first of these that there are."""
NAMES = {
    "round_rows": "rows of a round",
    "reward": "mean reward of what was scored",
    "grad_norm": "gradient norm",
}
Name = Callable[[Row], str]


@dataclass(frozen=True)
class Plot:
    """One figure."""

    name: str
    """Of its files, without their ending."""
    title: str
    figure: Figure

    def svg(self) -> str:
        """The text of its SVG file."""
        return drawing.rendered(self.figure, self.name, "svg").decode()

    def save(self, folder: Path) -> list[Path]:
        """As PNG and SVG."""
        return drawing.save(self.figure, folder, self.name)


def plots(report: Report) -> list[Plot]:
    """Every figure that the records have something for."""
    made: list[Plot | None] = []
    for title, comparison in report.comparisons.items():
        made += _of(title, title, comparison, _full_name)
    for sweep, comparison in report.sweeps:
        about = f"{sweep.name}: {sweep.title}"
        made.append(ablation_curves(sweep, comparison, f"ablation {sweep.id}", about))
        made += _of(f"{sweep.id}", about, comparison, lambda row, sweep=sweep: value(sweep, row))
    return [plot for plot in made if plot]


def save_all(report: Report, folder: Path) -> list[Path]:
    """Every figure into a folder."""
    made = plots(report)
    if made:
        folder.mkdir(parents=True, exist_ok=True)
    return [path for plot in made for path in plot.save(folder)]


def ablation_curves(sweep: Sweep, comparison: Comparison, name: str, title: str) -> Plot | None:
    """Difference to the base by value, one panel per metric; small marks are single seeds."""
    rows = [row for row in comparison.rows if not row.is_base]
    columns = _columns(comparison)
    if not rows or not columns:
        return None
    labels = [value(sweep, row) for row in rows]
    note = f"difference to the base, {comparison.protocol.confidence:.0%} interval over prompts; dots: single seeds"
    figure, axes = drawing.panels(len(columns), title, note)
    for panel, column in zip(axes, columns, strict=True):
        entries = [row.entries.get(column.label) for row in rows]
        marks.differences(panel, entries, ascending([row.setting for row in rows]))
        slanted = max(map(len, labels)) * len(labels) > 40
        panel.set_xticks(
            range(len(labels)), labels, rotation=30 if slanted else 0, ha="right" if slanted else "center"
        )
        drawing.tidy(panel, _titled(column, rows))
        panel.set_xlabel(", ".join(axis.label for axis in sweep.axes), fontsize=8)
    return Plot(drawing.file_name(name), f"Ablation {title}", figure)


def training_curves(rows: Sequence[Row], name: str, title: str, named: Name) -> Plot | None:
    """What runs logged, one line per row; the band is from the lowest to the highest seed."""
    logged = {id(row): curves for row in rows if (curves := _curves(row))}
    shown = [row for row in rows if id(row) in logged][:LINES]
    keys = [key for key in LOGGED if any(key in curves[0] for curves in logged.values())][:PANELS]
    if not shown or not keys:
        return None
    left = len(logged) - len(shown)
    note = "means over a sixteenth of the updates; band: lowest to highest seed" + (
        f"; {left} more" if left else ""
    )
    figure, axes = drawing.panels(len(keys), title, note)
    for panel, key in zip(axes, keys, strict=True):
        for number, row in enumerate(shown):
            marks.curve(
                panel, [curves[key] for curves in logged[id(row)] if key in curves], number, named(row)
            )
        drawing.tidy(panel, NAMES.get(key, key))
        panel.set_xlabel("update", fontsize=8)
    if len(shown) > 1:
        drawing.legend(figure, axes[0])
    return Plot(drawing.file_name(name), title, figure)


def by_timestep(
    rows: Sequence[Row], name: str, title: str, named: Name, key: str, label: str, per_round: bool
) -> Plot | None:
    """A number that training recorded for every timestep: kept pairs, or thresholds."""
    found = {id(row): numbers for row in rows if (numbers := _recorded(row, key, per_round))}
    shown = [row for row in rows if id(row) in found][:LINES]
    if not shown:
        return None
    left = len(found) - len(shown)
    figure, (panel,) = drawing.panels(1, title, f"{left} more rows are not drawn" if left else "")
    for number, row in enumerate(shown):
        numbers = found[id(row)]
        style = drawing.look(number)
        panel.plot(list(numbers), list(numbers.values()), label=named(row), markersize=4, **style)
    panel.invert_xaxis()
    panel.set_ylim(bottom=0)
    drawing.tidy(panel)
    panel.set_xlabel("timestep, from noise to image", fontsize=8)
    panel.set_ylabel(label, fontsize=8)
    drawing.legend(figure, panel)
    return Plot(drawing.file_name(name), title, figure)


def score_against_cost(comparison: Comparison, name: str, title: str, named: Name) -> Plot | None:
    """Gain over the base against the latents that training denoised, one panel per metric."""
    rows = [row for row in comparison.rows if row.effort and row.effort.rows > 0]
    columns = _columns(comparison)
    if len(rows) < 2 or not columns:
        return None
    left = len(rows) - 2 * LINES
    rows = rows[: 2 * LINES]
    untrained = [
        named(row) for row in comparison.rows if not row.is_base and row.effort and not row.effort.rows
    ]
    note = "difference to the base with its interval"
    if left > 0:
        note += f"; {left} more rows are not drawn"
    if untrained:
        note += f"; not drawn, for nothing is trained: {', '.join(untrained)}"
    figure, axes = drawing.panels(len(columns), title, note)
    for panel, column in zip(axes, columns, strict=True):
        for number, row in enumerate(rows):
            entry = row.entries.get(column.label)
            if entry is None or entry.difference is None or row.effort is None:
                continue
            style = {**drawing.look(number), "linestyle": "none"}
            errors = marks.errors([entry])
            panel.errorbar(row.effort.rows, entry.difference, errors, label=named(row), capsize=2, **style)
        panel.axhline(0, color="0.45", linestyle=":", linewidth=1)
        marks.cost_axis(panel, [row.effort.rows for row in rows if row.effort])
        drawing.tidy(panel, _titled(column, rows))
        panel.set_xlabel("latents denoised in training", fontsize=8)
    drawing.legend(figure, axes[0])
    return Plot(drawing.file_name(name), title, figure)


def _of(name: str, about: str, comparison: Comparison, named: Name) -> list[Plot | None]:
    """The figures that both a main comparison and a sweep have."""
    rows = [row for row in comparison.rows if not row.is_base]
    choosy = [row for row in rows if _recorded(row, "thresholds", False)]
    made = [
        score_against_cost(comparison, f"{name} score against cost", f"{about}: score against cost", named),
        by_timestep(
            choosy,
            f"{name} pairs by timestep",
            f"{about}: pairs that were sure enough, by timestep",
            named,
            "rows_by_t",
            "rows kept per round",
            True,
        ),
        by_timestep(
            choosy,
            f"{name} thresholds",
            f"{about}: threshold by timestep",
            named,
            "thresholds",
            "smallest margin kept",
            False,
        ),
    ]
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.backbone, row.method), []).append(row)
    for (backbone, method), some in groups.items():
        title = f"{about}: training of {method} on {backbone}"
        made.append(training_curves(some, f"{name} training {backbone} {method}", title, named))
    return made


def _curves(row: Row) -> list[dict[str, Curve]]:
    """Of every run that has logged some."""
    found = []
    for record in row.records:
        try:
            found.append(read_curves(record.folder))
        except MissingAsset:
            continue
    return [curves for curves in found if curves]


def _recorded(row: Row, key: str, per_round: bool) -> dict[float, float]:
    """Means over the runs of a row, by timestep."""
    kept: dict[float, list[float]] = {}
    for record in row.records:
        training: Mapping = record.training or {}
        for t, number in training.get(key, {}).items():
            kept.setdefault(float(t), []).append(number / training["rounds"] if per_round else number)
    return {t: sum(numbers) / len(row.records) for t, numbers in sorted(kept.items(), reverse=True)}


def _columns(comparison: Comparison) -> list[Column]:
    return list(comparison.columns[:PANELS])


def _titled(column: Column, rows: Sequence[Row]) -> str:
    trained = any(e.trained_on for row in rows if (e := row.entries.get(column.label)))
    return headline(column) + (f" {TRAINED_ON} trained on" if trained else "")


def _full_name(row: Row) -> str:
    return " ".join(part for part in (row.backbone, row.method, row.reward, row.setting) if part)
