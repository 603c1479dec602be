"""`lpobench report`: the tables, from the records alone."""

from __future__ import annotations

from typing import Annotated

import typer

from lpobench.cli.options import RUNS, Json, Out
from lpobench.cli.output import show, show_json, show_rich
from lpobench.plugin import MissingAsset


def report(
    markdown: Annotated[bool, typer.Option("--markdown", help="Print markdown.")] = False,
    out: Out = RUNS,
    as_json: Json = False,
) -> None:
    """Print the tables of finished runs.

    Made of the records under --out alone; runs that differ in nothing but the seed are pooled as well.
    """
    from lpobench.records.record import read_all

    records = read_all(out)
    if not records:
        raise MissingAsset(f"no records in {out}; `lpobench run` writes one when it has finished")
    if as_json:
        return show_json([record.model_dump(mode="json") for record in records])
    from lpobench.records.stats import families, pooled
    from lpobench.report import tables

    for family in families(records):
        if len(family) > 1 and family[0].trained:
            together = pooled(family)
            show(tables.pooled_markdown(together)) if markdown else _show(tables.pooled_comparison(together))
        for record in family:
            show(tables.to_markdown(record)) if markdown else _show(tables.comparison(record))
    return None


def _show(table: object) -> None:
    show_rich(table)
    show()
