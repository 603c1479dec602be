"""metrics.jsonl: one line per update, also after a resume."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

from lpobench.learning.checkpoint import storage_errors


class MetricsLog:
    """Appends lines to a file from which everything after update `after`, or torn by a kill, has been cut.

    Each line reaches the kernel when it is written, the disk at `sync`.
    """

    def __init__(self, path: Path, after: int) -> None:
        self.path = path
        with storage_errors(f"{path} cannot be written"):
            self._file = open(path, "a+b")  # noqa: SIM115  closed by __exit__
            self._file.truncate(_bytes_until(path, after))

    def write(self, values: Mapping[str, int | float]) -> None:
        """JSON knows no infinity and no nan: they are written as null."""
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        with storage_errors(f"{self.path} cannot be written"):
            self._file.write(json.dumps(finite).encode() + b"\n")
            self._file.flush()

    def sync(self) -> None:
        with storage_errors(f"{self.path} cannot be written"):
            os.fsync(self._file.fileno())

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()


def _bytes_until(path: Path, after: int) -> int:
    """Length of the leading lines that are whole and of updates up to `after`."""
    length = 0
    with open(path, "rb") as file:
        for line in file:
            if not line.endswith(b"\n") or _update_of(line) > after:
                break
            length += len(line)
    return length


def _update_of(line: bytes) -> int | float:
    """A line that cannot be read counts as after everything: it and what follows is written again."""
    try:
        return json.loads(line)["update"]
    except (ValueError, KeyError, TypeError):
        return math.inf
