"""What `lpobench report` found as one HTML page: its tables, its figures, and the pictures of its runs."""

from __future__ import annotations

from functools import partial

from lpobench.report import columns
from lpobench.report.ablation import value
from lpobench.report.page import Figure, Page, page
from lpobench.report.plots import plots
from lpobench.report.report import Report


def report_page(found: Report) -> Page:
    """Raises UserError, MissingAsset where the scores under a picture cannot be read."""
    counts = {"run": len(found.records), "sweep": len(found.sweeps), "evaluation": len(found.evaluations)}
    parts = [f"{count:,} {name}{'s' if count > 1 else ''}" for name, count in counts.items() if count]
    lines = [f"{', '.join(parts)}; written by lpobench report, of records alone.", *found.notes]
    return page("Results", lines, found.documents, figures(found), subjects(found))


def figures(found: Report) -> list[Figure]:
    """Charts without their titles, which stand below them here."""
    drawn = []
    for plot in plots(found):
        plot.figure.suptitle("")
        drawn.append(Figure(plot.title, plot.svg()))
    return drawn


def subjects(found: Report) -> list[columns.Subject]:
    """Whose pictures are shown: of each comparison, each sweep, and the evaluations."""
    several = len(found.comparisons) > 1
    shown = [
        subject
        for title, comparison in found.comparisons.items()
        for subject in columns.of_comparison(comparison, title if several else "")
    ]
    for sweep, comparison in found.sweeps:
        shown += columns.of_comparison(comparison, f"ablation {sweep.name}", partial(value, sweep))
    return [*shown, *columns.of_evaluations(found.evaluations)]
