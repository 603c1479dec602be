"""Work that takes hours, done in numbered shards: what is finished stays, and ends the same however often it is killed.

A folder holds the result of one piece of work, `items` numbered from 0, `per_shard` in each shard. A shard's content
depends on its items alone, so shards can be made in any order, by any number of workers, and remade when damaged.
Files appear under their names when they are whole. Hidden names are scratch.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lpobench.lock import InUse, run_lock
from lpobench.plugin import UserError

WORKERS = ".workers"


def write_atomic(path: Path, data: bytes, scratch: Path | None = None, *, sync: bool = True) -> None:
    """Write a file that is whole or absent. `scratch`: where it grows; `sync`: also after a power cut."""
    growing = (scratch or path.parent) / f".{path.name}.{os.getpid()}.tmp"
    try:
        with growing.open("wb") as file:
            file.write(data)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        os.replace(growing, path)
    finally:
        growing.unlink(missing_ok=True)


@dataclass(frozen=True)
class Shards:
    """How items are cut into shards."""

    items: int
    per_shard: int

    def __len__(self) -> int:
        return -(-self.items // self.per_shard)

    def range(self, number: int) -> range:
        """The items of one shard."""
        return range(number * self.per_shard, min((number + 1) * self.per_shard, self.items))

    def share(self, worker: tuple[int, int]) -> range:
        """The shards of worker `rank` of `world`: one contiguous piece, so that sources are read in order."""
        rank, world = worker
        return range(len(self) * rank // world, len(self) * (rank + 1) // world)


def shard_name(number: int, suffix: str, prefix: str = "shard") -> str:
    return f"{prefix}-{number:05d}{suffix}"


def parse_worker(text: str) -> tuple[int, int]:
    """`2/8` is the third of eight workers: (2, 8)."""
    rank, slash, world = text.partition("/")
    if not (slash and rank.isdecimal() and world.isdecimal() and int(rank) < int(world)):
        raise UserError(f'shard should be I/N with I from 0 to N-1, such as 0/8, got "{text}"')
    return int(rank), int(world)


@contextmanager
def worker_folder(
    folder: Path, worker: tuple[int, int], wait: Callable[[InUse], None] | None = None
) -> Iterator[Path]:
    """The scratch folder of one worker, which no other process has; what a killed one left in it is removed.

    Raises InUse, or calls `wait`, where another process is this worker.
    """
    scratch = folder / WORKERS / f"{worker[0]}-of-{worker[1]}"
    with run_lock(scratch, wait):
        for left in scratch.glob(".*.tmp"):
            left.unlink()
        yield scratch


def claim(path: Path, about: Mapping[str, Any], scratch: Path) -> None:
    """Say in a file what the work in its folder is. UserError where that is other work; names what differs."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        return write_atomic(path, (json.dumps(about, indent=2, ensure_ascii=False) + "\n").encode(), scratch)
    earlier, here = read_claim(path), json.loads(json.dumps(about))
    for key in {**earlier, **here}:
        if earlier.get(key) != here.get(key):
            raise UserError(
                f"{path.parent} holds other work: its {key} is {_short(earlier.get(key))}, this one's "
                f"{_short(here.get(key))}; choose another --out"
            )
    return None


def read_claim(path: Path) -> dict[str, Any]:
    """What `claim` wrote. Raises UserError."""
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    if not isinstance(about, dict):
        raise UserError(f"{path} is not a JSON object")
    return about


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 100 else text[:97] + "..."
