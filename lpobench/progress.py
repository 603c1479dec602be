"""Progress on stderr: a bar in a terminal, else a plain line every twentieth of the way."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class Advance(Protocol):
    def __call__(self, count: int = 1, note: str = "") -> None:
        """`count` more are done; `note` is shown beside the count."""


@contextmanager
def progress(total: int, description: str, *, done: int = 0, enabled: bool = True) -> Iterator[Advance]:
    """`with progress(600, "scoring") as advance: ... advance(8)`. `done` of the total were done before."""
    console = Console(stderr=True)
    if not enabled:
        yield lambda count=1, note="": None
    elif console.is_terminal:
        with _bar(console) as bar:
            task = bar.add_task(description, total=total, completed=done, note="")
            yield lambda count=1, note="": bar.update(task, advance=count, note=note)
    else:
        yield _lines(total, description, done)


def _bar(console: Console) -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    return Progress(*columns, console=console)


def _lines(total: int, description: str, done: int) -> Advance:
    every, start = max(1, total // 20), time.monotonic()

    def advance(count: int = 1, note: str = "") -> None:
        nonlocal done
        before, done = done, done + count
        if done // every > before // every or done == total:
            seconds = time.monotonic() - start
            print(f"{description} {done}/{total} {seconds:.0f}s {note}".rstrip(), file=sys.stderr, flush=True)

    return advance
