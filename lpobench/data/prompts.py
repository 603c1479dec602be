"""Prompts to train and to evaluate on: from the embedded world, or from a file of the user's.

A prompt's id is made from its text, so the noise it is drawn with does not depend on where in the file it
stands.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from lpobench.plugin import MissingAsset, UserError
from lpobench.types import Prompt

Split = Literal["train", "eval"]
WORLD_PROMPTS = 4096
COLUMNS = ("prompt", "caption")
SUFFIXES = (".txt", ".csv", ".jsonl")


def load_prompts(source: str, split: Split, num: int | None, seed: int) -> list[Prompt]:
    """At most `num` prompts of "shapes", or of a .txt, .csv or .jsonl file. None: all of a file, 4096 shapes.

    A .txt file has one prompt per line; the other two have a column or key `prompt` or `caption`, and may
    have `task`, which becomes the tag that tables group by. A file with more than `num` prompts is sampled
    with `seed`, in file order; `split` means nothing to a file. Raises UserError.
    """
    if source == "shapes":
        from lpobench.data import shapes

        return shapes.prompts(split, WORLD_PROMPTS if num is None else num, seed)
    prompts = _identified(list(_read(Path(source))))
    if not prompts:
        raise UserError(f"no prompts in {source}: every line is empty")
    if num is None or num >= len(prompts):
        return prompts
    return [prompts[i] for i in sorted(random.Random(seed).sample(range(len(prompts)), num))]


def check_held_out(train: Sequence[Prompt], evaluation: Sequence[Prompt]) -> None:
    """Raises UserError when a training prompt is also evaluated on: the table would measure memory."""
    shared = {prompt.text for prompt in train} & {prompt.text for prompt in evaluation}
    if shared:
        raise UserError(
            f"{len(shared)} of the {len(evaluation)} evaluation prompts are also training prompts "
            f"(one is {min(shared)!r}); take them out of one of the two lists"
        )


def _read(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    if path.suffix not in SUFFIXES:
        raise UserError(f'unknown prompts "{path}"; known: shapes, or a file ending in {", ".join(SUFFIXES)}')
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise MissingAsset(f"no prompt file {path}") from None
    except (OSError, UnicodeDecodeError) as reason:
        raise UserError(f"cannot read prompt file {path}: {reason}") from None
    rows = {".txt": _lines, ".csv": _csv, ".jsonl": _jsonl}[path.suffix](io.StringIO(text), path)
    return ((prompt.strip(), tags) for prompt, tags in rows if prompt.strip())


def _lines(lines: Iterable[str], path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    return ((line, {}) for line in lines)


def _csv(lines: Iterable[str], path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    table = csv.DictReader(lines, restval="")
    column = _column(table.fieldnames or (), str(path))
    return ((row[column], _tags(row)) for row in table)


def _jsonl(lines: Iterable[str], path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as reason:
            raise UserError(f"{path}:{number}: not JSON: {reason}") from None
        if not isinstance(row, dict):
            raise UserError(
                f'{path}:{number}: expected an object such as {{"prompt": "..."}}, got {line.strip()[:40]}'
            )
        text = row[_column(row, f"{path}:{number}")]
        if not isinstance(text, str):
            raise UserError(f"{path}:{number}: the prompt must be a string, got {text!r}")
        yield text, _tags(row)


def _column(names, where: str) -> str:
    for column in COLUMNS:
        if column in names:
            return column
    raise UserError(
        f"{where}: no {' or '.join(COLUMNS)} among {', '.join(names) or 'its columns (it is empty)'}"
    )


def _tags(row: dict) -> dict[str, str]:
    task = row.get("task")
    return {"task": str(task)} if task not in (None, "") else {}


def _identified(rows: list[tuple[str, dict[str, str]]]) -> list[Prompt]:
    seen: Counter[str] = Counter()
    prompts = []
    for text, tags in rows:
        digest = hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
        seen[digest] += 1
        prompts.append(Prompt(text, digest if seen[digest] == 1 else f"{digest}-{seen[digest]}", tags))
    return prompts
