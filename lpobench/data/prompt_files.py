"""Prompt files: one prompt per line, or a column or key `prompt` or `caption`.

What may stand beside it as `task` (`category` in PartiPrompts) becomes the tag that tables group by. A line of
GenEval's metadata keeps all it demands of an image.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from lpobench.plugin import MissingAsset, UserError

COLUMNS = ("prompt", "caption")
TAGS = ("task", "category")
Row = tuple[str, dict[str, str]]
"""A prompt and its tags."""
Entry = str | dict[str, Any]
"""A prompt, or a row or an object that has one."""


def read_prompts(path: Path) -> list[Row]:
    """The prompts of a file, stripped; empty ones are left out. Raises UserError."""
    rows = (row_of(entry, where) for where, entry in read_entries(path))
    return [(prompt.strip(), tags) for prompt, tags in rows if prompt.strip()]


def read_entries(path: Path) -> Iterator[tuple[str, Entry]]:
    """Everything a file lists, each with the place it stands at, in the words of a message. Raises UserError."""
    if path.suffix not in READERS:
        raise UserError(f"cannot read prompts from {path}; known: a file ending in {', '.join(READERS)}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise MissingAsset(f"no prompt file {path}") from None
    except (OSError, UnicodeDecodeError) as reason:
        raise UserError(f"cannot read prompt file {path}: {reason}") from None
    return READERS[path.suffix](io.StringIO(text), path)


def row_of(entry: Entry, where: str) -> Row:
    """The prompt of an entry and its tags. Raises UserError where it has none."""
    if isinstance(entry, str):
        return entry, {}
    text = entry[_column(entry, where)]
    if not isinstance(text, str):
        raise UserError(f"{where}: the prompt must be a string, got {text!r}")
    return text, _tags(entry, where)


def plain(text: str) -> str:
    """A prompt without what makes no other prompt of it: case, and how its words are spaced."""
    return " ".join(text.split()).casefold()


def _lines(lines: Iterable[str], path: Path) -> Iterator[tuple[str, Entry]]:
    return ((str(path), line) for line in lines)


def _csv(lines: Iterable[str], path: Path, **dialect: Any) -> Iterator[tuple[str, Entry]]:
    table = csv.DictReader(lines, restval="", **dialect)
    table.fieldnames = [name.lower() for name in table.fieldnames or ()]
    _column(table.fieldnames, str(path))
    return ((str(path), {name: row[name] for name in table.fieldnames}) for row in table)


def _jsonl(lines: Iterable[str], path: Path) -> Iterator[tuple[str, Entry]]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield f"{path}:{number}", _object(_parsed(line, f"{path}:{number}"), f"{path}:{number}")


def _json(file: io.StringIO, path: Path) -> Iterator[tuple[str, Entry]]:
    """A list of strings, as HPSv2's benchmark has, or of objects, as the published training prompts."""
    entries = _parsed(file.read(), str(path))
    if not isinstance(entries, list):
        raise UserError(f"{path}: expected a list of prompts, got {str(entries)[:40]}")
    for number, entry in enumerate(entries):
        where = f"{path}[{number}]"
        yield where, entry if isinstance(entry, str) else _object(entry, where)


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as reason:
        raise UserError(f"{where}: not JSON: {reason}") from None


def _object(row: Any, where: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise UserError(
            f'{where}: expected an object such as {{"prompt": "..."}}, got {json.dumps(row)[:40]}'
        )
    return row


def _column(names: Iterable[str], where: str) -> str:
    for column in COLUMNS:
        if column in names:
            return column
    raise UserError(
        f"{where}: no {' or '.join(COLUMNS)} among {', '.join(names) or 'its columns (it is empty)'}"
    )


def _tags(row: dict[str, Any], where: str) -> dict[str, str]:
    if "tag" in row and "include" in row:
        return _geneval(row, where)
    task = next((row[name] for name in TAGS if row.get(name) not in (None, "")), None)
    return {} if task is None else {"task": str(task)}


def _geneval(row: dict[str, Any], where: str) -> dict[str, str]:
    from lpobench.data.geneval import parse, tags_of

    try:
        return tags_of(parse(json.dumps(row)))
    except UserError as problem:
        raise UserError(f"{where}: {problem}") from None


READERS = {
    ".txt": _lines,
    ".csv": _csv,
    ".tsv": partial(_csv, delimiter="\t", quoting=csv.QUOTE_NONE),
    ".json": _json,
    ".jsonl": _jsonl,
}
