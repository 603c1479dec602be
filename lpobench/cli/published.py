"""`lpobench published`: the tables of the LPO paper."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from lpobench.cli.options import Json
from lpobench.cli.output import check_writable, columns, heading, say, show

ALL = "all"


def _names(incomplete: str) -> list[str]:
    from lpobench.records.published import table_names

    return [name for name in [*table_names(), ALL] if name.startswith(incomplete)]


def published(
    table: Annotated[
        str | None,
        typer.Argument(metavar="[TABLE|all]", help="Which table; none: lists them.", autocompletion=_names),
    ] = None,
    form: Annotated[
        Literal["markdown", "csv", "latex", "json"], typer.Option("--format", "-f", help="How to print it.")
    ] = "markdown",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write a file, not to stdout.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Print what the LPO paper published, number for number.

    arXiv:2502.01051. `lpobench report --published` puts the matching tables after ours.
    """
    from lpobench.records.published import TITLES, numbers_of

    if table is None and not as_json:
        heading("published tables")
        return columns([(name, str(len(numbers_of(name))), title) for name, title in TITLES.items()])
    text = _text(list(TITLES) if table in (None, ALL) else [table], "json" if as_json else form)
    if output is None:
        return show(text.rstrip())
    from lpobench.records.record import write_atomic

    check_writable(output.parent)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(output, text)
    return say(f"written: {output}")


def _text(tables: list[str], form: str) -> str:
    from dataclasses import asdict

    from lpobench.records.published import numbers_of
    from lpobench.report import published as view
    from lpobench.report.latex import HEAD, document_latex
    from lpobench.report.numbers import dumps
    from lpobench.report.tables import document_markdown

    if form == "csv":
        return view.to_csv(tables)
    if form == "json":
        return dumps([asdict(number) for table in tables for number in numbers_of(table)])
    documents = [view.published_document(table) for table in tables]
    if form == "latex":
        return HEAD + "\n".join(map(document_latex, documents))
    return "\n".join(map(document_markdown, documents))
