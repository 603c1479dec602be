"""`lpobench report`: tables of finished runs, from the records alone."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from lpobench.cli.options import RUNS, Json, Out
from lpobench.cli.output import check_writable, say, show
from lpobench.evaluation.plan import protocol_notes
from lpobench.plugin import MissingAsset, UserError
from lpobench.problems import hint

if TYPE_CHECKING:
    from lpobench.records.record import RunRecord
    from lpobench.records.sweep import Sweep
    from lpobench.report.report import Report

Format = Literal["markdown", "csv", "latex", "json"]


def report(
    runs: Annotated[
        list[str] | None, typer.Argument(metavar="[RUN]...", help="Only these, by id; * and ? are allowed.")
    ] = None,
    form: Annotated[
        Format | None, typer.Option("--format", "-f", help="Default: markdown, or as the file's name ends.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE|FOLDER",
            help="Write a file; into a folder all formats and figures.",
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write one page of tables, figures and pictures, complete in itself."
        ),
    ] = None,
    published: Annotated[
        bool, typer.Option("--published", help="Published numbers after ours, where there are any.")
    ] = False,
    each: Annotated[bool, typer.Option("--each", help="The tables of every single run as well.")] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="The main table with sweeps' cells and runs cut short, too.")
    ] = False,
    out: Out = RUNS,
    as_json: Json = False,
) -> None:
    """Print comparison tables of finished runs, sweeps and evaluations.

    Made of the records under --out alone. Training seeds are pooled; every mean has the interval of its paired
    difference to the base. Numbers of different protocols or scorer versions never share a column.
    """
    form = "json" if as_json else form
    found = _gather(out, runs or [], everything, published)
    for note in found.notes:
        say(note)
    if html is not None:
        _write_page(found, html)
    if output is None and (html is None or form):
        show(_text(found, form or "markdown", each).rstrip())
    elif output is not None:
        _write(found, form, output, each)


def _gather(out: Path, wanted: list[str], everything: bool, published: bool) -> Report:
    """Raises MissingAsset where there is nothing, UserError for a run that is not there."""
    from lpobench.records.evaluation import read_evaluations
    from lpobench.records.record import read_all
    from lpobench.records.sweep import read_sweeps
    from lpobench.report.report import make_report

    records, evaluations = chosen(read_all(out), wanted), [] if wanted else read_evaluations(out)
    if not records and not evaluations:
        raise MissingAsset(
            f"no records in {out}; `lpobench run` and `lpobench eval` write one when they have finished"
        )
    sweeps = _with_cells(read_sweeps(out), records)
    return make_report(
        records,
        sweeps,
        evaluations,
        protocol_notes(),
        everything=everything or bool(wanted),
        published=published,
    )


def chosen(records: list[RunRecord], wanted: list[str]) -> list[RunRecord]:
    """The records whose ids match, all where nothing is wanted. Raises UserError for what matches nothing."""
    for pattern in wanted:
        if not any(fnmatchcase(record.id, pattern) for record in records):
            raise UserError(
                f'no finished run "{pattern}"; {hint(pattern, [record.id for record in records])}'
            )
    return [r for r in records if not wanted or any(fnmatchcase(r.id, pattern) for pattern in wanted)]


def _with_cells(sweeps: list[Sweep], records: list[RunRecord]) -> list[Sweep]:
    ids = {record.id for record in records}
    return [sweep for sweep in sweeps if any(cell.run in ids for cell in sweep.cells)]


def _text(found: Report, form: str, each: bool) -> str:
    text = found.text(form)
    if not each or form != "markdown":
        return text
    from lpobench.report.tables import to_markdown

    return "\n".join([text, *map(to_markdown, found.records)])


def _write(found: Report, form: Format | None, output: Path, each: bool) -> None:
    """A file in one format, a folder in all. Raises UserError where that cannot be."""
    from lpobench.records.record import write_atomic
    from lpobench.report.report import FORMATS

    kinds = {ending: kind for kind, ending in FORMATS.items()}
    if output.suffix and not output.is_dir():
        kind = form or kinds.get(output.suffix)
        if kind is None:
            raise UserError(f"{output.name} ends in none of {', '.join(kinds)}: give --format, or a folder")
        check_writable(output.parent)
        output.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(output, _text(found, kind, each))
        return say(f"written: {output}")
    check_writable(output)
    output.mkdir(parents=True, exist_ok=True)
    written = []
    for kind in [form] if form else FORMATS:
        written.append(output / f"report{FORMATS[kind]}")
        write_atomic(written[-1], _text(found, kind, each))
    from lpobench.report.plots import save_all

    written += save_all(found, output / "figures")
    return say(f"written: {len(written)} files in {output}")


def _write_page(found: Report, path: Path) -> None:
    """The page, and on stderr what it leaves out. Raises UserError."""
    from lpobench.records.record import write_atomic
    from lpobench.report.report_page import report_page

    if path.is_dir():
        raise UserError(f"{path} is a folder; --html takes the file to write, such as {path / 'report.html'}")
    check_writable(path.parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    page = report_page(found)
    write_atomic(path, page.html)
    for line in page.left_out:
        say(line)
    say(f"written: {path}, {len(page.html.encode()) / 1e6:.1f} MB")
