"""All that `lpobench report` shows, as data: comparisons, sweeps, evaluations, and the documents made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lpobench.records.compare import comparisons
from lpobench.records.comparison import Comparison
from lpobench.records.evaluation import EvalRecord, comparable
from lpobench.records.record import RunRecord
from lpobench.records.sweep import Sweep
from lpobench.report import evaluations as of_evaluations
from lpobench.report import numbers
from lpobench.report.ablation import hidden_cells, sweep_comparisons, sweep_document
from lpobench.report.comparison import comparison_document
from lpobench.report.latex import HEAD, document_latex
from lpobench.report.published import after_comparison, after_sweep
from lpobench.report.tables import Document, Section, document_markdown

FORMATS = {"markdown": ".md", "csv": ".csv", "latex": ".tex", "json": ".json"}
"""And what their files end in."""


@dataclass(frozen=True)
class Report:
    """What was found, ready to be written in any format."""

    records: Sequence[RunRecord]
    comparisons: Mapping[str, Comparison]
    """By the title of the table."""
    sweeps: Sequence[tuple[Sweep, Comparison]]
    evaluations: Sequence[EvalRecord]
    meanings: Mapping[str, str]
    """What each protocol is, by its id."""
    notes: Sequence[str] = ()
    """What was left out, a line each."""
    published: bool = False
    """Published numbers follow each table, where there are any."""

    @property
    def documents(self) -> list[Document]:
        """The main tables, then a document per sweep, then evaluations."""
        main = [self._main(title, comparison) for title, comparison in self.comparisons.items()]
        sweeps = [self._sweep(sweep, comparison) for sweep, comparison in self.sweeps]
        return [*main, *sweeps, *map(of_evaluations.document, comparable(self.evaluations))]

    def _main(self, title: str, comparison: Comparison) -> Document:
        made = comparison_document(comparison, self.meanings, title)
        return extended(made, after_comparison(comparison)) if self.published else made

    def _sweep(self, sweep: Sweep, comparison: Comparison) -> Document:
        made = sweep_document(sweep, comparison, self.meanings)
        return extended(made, after_sweep(sweep, comparison)) if self.published else made

    def text(self, kind: str) -> str:
        """In one of FORMATS."""
        if kind == "csv":
            sweeps = {f"sweep {sweep.id}": comparison for sweep, comparison in self.sweeps}
            return numbers.to_csv({**self.comparisons, **sweeps}, self.evaluations)
        if kind == "json":
            return numbers.dumps(self.as_json())
        if kind == "latex":
            return HEAD + "\n".join(map(document_latex, self.documents))
        return "\n".join(map(document_markdown, self.documents))

    def as_json(self) -> dict[str, Any]:
        """All numbers, with every digit."""
        return {
            "comparisons": [{"title": title, **numbers.to_json(c)} for title, c in self.comparisons.items()],
            "sweeps": [
                {
                    "id": sweep.id,
                    "name": sweep.name,
                    "title": sweep.title,
                    "command": sweep.command,
                    **numbers.to_json(c),
                }
                for sweep, c in self.sweeps
            ],
            "evaluations": [record.model_dump(mode="json") for record in self.evaluations],
            "notes": list(self.notes),
        }


def make_report(
    records: Sequence[RunRecord],
    sweeps: Sequence[Sweep],
    evaluations: Sequence[EvalRecord],
    meanings: Mapping[str, str],
    *,
    everything: bool = False,
    published: bool = False,
) -> Report:
    """`everything`: the main table has the cells of sweeps too, and runs that were cut short. Raises UserError."""
    by_id = {record.id: record for record in records}
    notes = []
    main = list(records)
    if not everything:
        cut = [record for record in main if record.limit is not None]
        main = [record for record in main if record.limit is None]
        notes += [f"{_runs(cut)} cut short by --limit, left out; --all has them"] if cut else []
        hidden = hidden_cells(sweeps, by_id)
        kept = [record for record in main if record.id not in hidden]
        if len(kept) < len(main):
            gone = [record for record in main if record.id in hidden]
            notes.append(
                f"{_runs(gone)} of sweeps in the sweeps' own tables alone; --all has them in the main one too"
            )
        main = kept
    found = comparisons(main)
    if len(found) > 1:
        notes.append(
            f"{len(found)} protocols, each with a table of its own: their numbers are not comparable"
        )
    titles = (
        ["Comparison"]
        if len(found) == 1
        else [f"Comparison {n} of {len(found)}" for n in range(1, 1 + len(found))]
    )
    made = [(sweep, c) for sweep in sweeps for c in sweep_comparisons(sweep, by_id)]
    return Report(
        records, dict(zip(titles, found, strict=True)), made, evaluations, meanings, notes, published
    )


def extended(document: Document, sections: Sequence[Section]) -> Document:
    """With more tables at its end."""
    return replace(document, sections=[*document.sections, *sections])


def _runs(records: Sequence[RunRecord]) -> str:
    return f"{len(records)} run{'s' if len(records) != 1 else ''}"
