"""`lpobench report`: the tables, from the records alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from lpobench.cli.options import RUNS, Json, Out
from lpobench.cli.output import show, show_json, show_rich
from lpobench.plugin import MissingAsset

if TYPE_CHECKING:
    from lpobench.records.evaluation import EvalRecord


def report(
    markdown: Annotated[bool, typer.Option("--markdown", help="Print markdown.")] = False,
    out: Out = RUNS,
    as_json: Json = False,
) -> None:
    """Print the tables of finished runs and evaluations.

    Made of the records under --out alone; runs that differ in nothing but the seed are pooled as well. Evaluations
    under one protocol are columns of one table; numbers of different protocols never share one.
    """
    from lpobench.records.evaluation import read_evaluations
    from lpobench.records.record import read_all

    records, evaluations = read_all(out), read_evaluations(out)
    if not records and not evaluations:
        raise MissingAsset(
            f"no records in {out}; `lpobench run` and `lpobench eval` write one when they have finished"
        )
    if as_json:
        return show_json([record.model_dump(mode="json") for record in (*records, *evaluations)])
    _show_evaluations(evaluations, markdown)
    from lpobench.records.stats import families, pooled
    from lpobench.report import tables

    for family in families(records):
        if len(family) > 1 and family[0].trained:
            together = pooled(family)
            show(tables.pooled_markdown(together)) if markdown else _show(tables.pooled_comparison(together))
        for record in family:
            show(tables.to_markdown(record)) if markdown else _show(tables.comparison(record))
    return None


def _show_evaluations(records: list[EvalRecord], markdown: bool) -> None:
    if not records:  # the tables need more than the records do
        return
    from lpobench.records.evaluation import comparable
    from lpobench.report import evaluations as tables

    for group in comparable(records):
        show(tables.to_markdown(group)) if markdown else _show(tables.evaluations(group))


def _show(table: object) -> None:
    show_rich(table)
    show()
