"""`lpobench runs`: the folders of runs: what is there, what differs, what is damaged, and away with it."""

from __future__ import annotations

import shutil
import sys
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lpobench.cli.options import RUNS, Json, Out
from lpobench.cli.output import columns, say, show, show_json
from lpobench.lock import holder, run_lock
from lpobench.plugin import UserError
from lpobench.problems import hint

if TYPE_CHECKING:
    from lpobench.records.record import RunRecord
    from lpobench.records.shelf import Shelved
    from lpobench.records.sweep import Sweep

app = typer.Typer(help="List, compare, check and remove runs.", no_args_is_help=True)
Some = Annotated[
    list[str] | None, typer.Argument(metavar="[RUN]...", help="Ids; * and ? are allowed. None: all.")
]


@app.command("list")
def list_runs(runs: Some = None, out: Out = RUNS, as_json: Json = False) -> None:
    """List runs: finished, unfinished, running, unreadable."""
    found = select(out, runs)
    if as_json:
        return show_json([_facts(one) for one in found])
    if not found:
        return say(f"no runs in {out}")
    rows = [(one.name, *(str(_facts(one)[key]) for key in ("state", "finished", "size"))) for one in found]
    return columns([("run", "state", "finished", "size"), *rows], indent=0)


@app.command()
def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="Id of a finished run.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Id of another.")],
    out: Out = RUNS,
) -> None:
    """Show how two runs differ: settings, environment, protocol, scores, curves."""
    from lpobench.report.difference import difference
    from lpobench.report.tables import document_markdown

    one, other = _finished(out, a), _finished(out, b)
    show(document_markdown(difference(one, other)).rstrip())


@app.command()
def verify(runs: Some = None, out: Out = RUNS, as_json: Json = False) -> None:
    """Check that finished runs are whole: hashes of their files, means of their scores."""
    from lpobench.records.prompt_scores import ScoreReader
    from lpobench.records.shelf import problems

    reader, broken = ScoreReader(), {}
    for one in select(out, runs):
        if one.state == "unfinished":
            say(f"{one.name}: not finished, nothing to verify")
            continue
        broken[one.name] = problems(one.record, reader) if one.record else [one.problem]
        if not as_json:
            show(f"{one.name}: {'; '.join(broken[one.name]) or f'whole, {len(one.record.files)} files'}")
    if as_json:
        show_json(broken)
    if bad := [name for name, found in broken.items() if found]:
        raise UserError(
            f"{len(bad)} of {len(broken)} runs {'is' if len(bad) == 1 else 'are'} damaged: {', '.join(bad)}"
        )


@app.command()
def rm(
    runs: Annotated[
        list[str] | None, typer.Argument(metavar="[RUN]...", help="Ids; * and ? are allowed.")
    ] = None,
    unfinished: Annotated[
        bool, typer.Option("--unfinished", help="All that have begun and nobody works on.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed.")] = False,
    out: Out = RUNS,
) -> None:
    """Remove runs: their whole folders. What runs share stays; one that is in use is refused."""
    from lpobench.records.sweep import read_sweeps

    if not runs and not unfinished:
        raise UserError("say which: run ids, or --unfinished")
    found = select(out, runs) if runs else []
    if unfinished:
        named = {one.name for one in found}
        idle = [one for one in select(out, None) if one.state == "unfinished" and not holder(one.path)]
        found += [one for one in idle if one.name not in named]
    sweeps = read_sweeps(out)
    for one in found:
        show(f"{one.path} ({_size(one.size)}, {_state(one)}{_cells(one, sweeps)})")
    if dry_run or not found:
        return
    _ask(len(found), yes)
    for one in found:
        if one.path.is_symlink():
            raise UserError(f"{one.path} is a link: remove it yourself")
        with run_lock(one.path):
            shutil.rmtree(one.path)
    say(f"removed {len(found)} run{'s' if len(found) != 1 else ''}")


def select(out: Path, wanted: list[str] | None) -> list[Shelved]:
    """The runs whose names match. Raises UserError for what matches nothing."""
    from lpobench.records.shelf import shelved

    found = shelved(out)
    for pattern in wanted or ():
        if not any(fnmatchcase(one.name, pattern) for one in found):
            raise UserError(f'no run "{pattern}" in {out}; {hint(pattern, [one.name for one in found])}')
    return [one for one in found if not wanted or any(fnmatchcase(one.name, pattern) for pattern in wanted)]


def _finished(out: Path, name: str) -> RunRecord:
    """Raises UserError."""
    found = select(out, [name])
    if len(found) > 1:
        raise UserError(f'"{name}" is several runs: {", ".join(one.name for one in found)}')
    if found[0].record is None:
        raise UserError(found[0].problem or f"{name} is not finished")
    return found[0].record


def _ask(num: int, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise UserError("nobody is there to be asked: add --yes")
    if not typer.confirm(f"remove {num} folder{'s' if num != 1 else ''}?", err=True):
        raise typer.Abort


def _facts(one: Shelved) -> dict[str, str | int | None]:
    record = one.record
    return {
        "run": one.name,
        "state": _state(one),
        "finished": f"{record.finished:%Y-%m-%d %H:%M}" if record else "",
        "size": _size(one.size),
        "folder": str(one.path),
        "problem": one.problem,
    }


def _state(one: Shelved) -> str:
    if one.state == "unfinished":
        if who := holder(one.path):
            return f"running, {who}"
        return "begun" if one.update is None else f"stopped at update {one.update}"
    return one.state


def _cells(one: Shelved, sweeps: list[Sweep]) -> str:
    names = [sweep.id for sweep in sweeps if any(cell.run == one.name for cell in sweep.cells)]
    return f", a cell of {', '.join(names)}" if names else ""


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB"
