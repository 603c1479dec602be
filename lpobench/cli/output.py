"""stdout is data, stderr is talk. Of several processes of a run, the main one talks."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import typer

from lpobench.draft import toml_key, toml_value
from lpobench.launch import environment
from lpobench.plugin import UserError


def say(line: object) -> None:
    """One line of talk."""
    if environment.is_main():
        typer.echo(line, err=True)


def show(text: object = "") -> None:
    """A line of data."""
    if environment.is_main():
        typer.echo(text)


def heading(text: str) -> None:
    typer.secho(text, bold=True)


def show_json(document: object) -> None:
    """The one JSON document a verb prints under --json."""
    show(json.dumps(document, indent=2, ensure_ascii=False, default=str))


def columns(rows: Iterable[Sequence[str]], indent: int = 2) -> None:
    """Rows of text with aligned columns; the last one is as long as it is."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        show(" " * indent + "  ".join([*cells, row[-1]]).rstrip())


def show_rich(renderable: object) -> None:
    """A rich table; wide enough not to wrap when nobody looks."""
    from rich.console import Console

    if environment.is_main():
        Console(width=None if sys.stdout.isatty() else 160).print(renderable)


def to_toml(values: Mapping[str, Any], table: str = "") -> str:
    """Nested values as TOML that a recipe can hold; None is spelt "none", an absent slot is left out."""
    plain = {key: value for key, value in values.items() if not _is_table(value)}
    lines = [
        f"{toml_key(key)} = {toml_value(value)}" for key, value in plain.items() if table or value is not None
    ]
    for key, value in values.items():
        name = f"{table}.{key}" if table else key
        if isinstance(value, Mapping):
            lines += ["", f"[{name}]", to_toml(value, name).strip("\n")]
        elif _is_table(value):
            lines += [line for item in value for line in ("", f"[[{name}]]", to_toml(item, name).strip("\n"))]
    return "\n".join(lines) + "\n"


def _is_table(value: object) -> bool:
    tables = isinstance(value, list | tuple) and value and all(isinstance(item, Mapping) for item in value)
    return isinstance(value, Mapping) or bool(tables)


def check_writable(folder: Path) -> None:
    """Raises UserError where a folder cannot be written to. Tries it, and leaves nothing behind."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"cannot write to {folder}: {error.strerror}; choose another folder with --out"
        ) from error
    finally:
        for path in missing:
            with suppress(OSError):  # never made, or another run has begun there
                path.rmdir()
