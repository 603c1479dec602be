"""`lpobench bench --compare OLD.json`: against another file, or measured again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lpobench.cli.output import show_rich
from lpobench.plugin import UserError


def command_of(path: Path) -> list[str]:
    """The command that measures what a file holds once more, from `bench` on. Raises UserError, MissingAsset."""
    from lpobench.records.bench import Measurement, is_of_pytest

    if is_of_pytest(path):
        raise UserError(f"{path} was written by pytest: name a newer such file as --with NEW.json")
    old = Measurement.read(path)
    if not old.words:
        raise UserError(
            f"{path} does not say how it was measured: name the verb, as in `lpobench bench step`"
        )
    return ["--compare", str(path), *_without(old.words)]


def _without(words: Sequence[str]) -> list[str]:
    """A command without its way of printing, and without what it was compared with."""
    kept, skip = [], False
    for word in words:
        if skip or word in ("--json", "--markdown"):
            skip = False
        elif word == "--compare":
            skip = True
        elif not word.startswith("--compare="):
            kept.append(word)
    return kept


def compare_files(old: Path, new: Path) -> None:
    from lpobench.records.bench import Measurement, is_of_pytest, read_timings
    from lpobench.report import bench as report
    from lpobench.report import tables

    lines = [f"{old} and {new}"]
    if not (is_of_pytest(old) or is_of_pytest(new)):
        lines += report.differences(Measurement.read(old), Measurement.read(new))
    show_rich(tables.stack(lines, [report.changes(read_timings(old), read_timings(new))]))
