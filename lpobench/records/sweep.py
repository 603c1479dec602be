"""Sweep: what an ablation planned and what became of it, as one JSON document. Its cells are ordinary runs.

It is written before the first cell starts and again whenever one ends: a sweep that was killed says which of its
cells are still to be done.
"""

from __future__ import annotations

import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, JsonValue, ValidationError, model_validator

from lpobench.plugin import MissingAsset, Settings, UserError
from lpobench.records.record import write_atomic

SCHEMA_VERSION = 1
FILE = "sweep.json"
FOLDER = "sweeps"
"""Folder beside the runs."""


class Axis(Settings):
    """What changes from cell to cell."""

    key: str
    """The setting, such as "method.min_gap"; or a name where the values are whole sets of settings."""
    label: str
    """What a table calls it."""


class Cell(Settings):
    """One run of a sweep."""

    label: str
    """The values, as a table prints them; equal for the seeds of one combination."""
    values: dict[str, JsonValue]
    """Value of each axis by its key."""
    seed: int
    run: str
    """Id of the run: the name of its folder, beside the sweeps' own."""
    command: str
    """What makes this cell alone."""
    state: Literal["planned", "complete", "failed"] = "planned"
    error: str | None = None
    """Of a failed cell: the last line of its log."""
    log: str | None = None
    """Path inside the sweep's folder; None while the cell has not been started by this sweep."""


class Sweep(Settings):
    """One sweep, finished or not."""

    schema_version: int = SCHEMA_VERSION
    id: str
    name: str
    """Of the ablation."""
    title: str
    source: str = ""
    """Where the values are from, and how they differ from a paper's."""
    axes: tuple[Axis, ...]
    baseline: str | None
    """Label of the cells that change nothing: the recipe's own values. None where no cell does that."""
    command: str
    """The command line that made it."""
    seeds: tuple[int, ...]
    started: datetime
    finished: datetime | None = None
    """When its last cell ended, whether it was completed or failed."""
    cells: tuple[Cell, ...]
    folder: Path | None = Field(default=None, exclude=True)
    """Where it was read from or written to."""

    @property
    def heading(self) -> str:
        """Its name, and its title where it has one."""
        return f"{self.name}: {self.title}" if self.title else self.name

    @model_validator(mode="before")
    @classmethod
    def _read_none(cls, values: object) -> object:
        return values  # JSON has a null, and "none" may be a label

    @property
    def labels(self) -> tuple[str, ...]:
        """The combinations, in order."""
        return tuple(dict.fromkeys(cell.label for cell in self.cells))

    def of(self, label: str) -> tuple[Cell, ...]:
        """The cells of one combination, by seed."""
        return tuple(cell for cell in self.cells if cell.label == label)

    def write(self, folder: Path) -> Self:
        """Write sweep.json into its folder, atomically; returns the sweep that knows its folder."""
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / FILE, self.model_dump_json(indent=2) + "\n")
        return self.model_copy(update={"folder": folder})

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The sweep in a folder. Raises UserError, MissingAsset."""
        path = folder / FILE
        try:
            document: Any = json.loads(path.read_text(encoding="utf-8"))
            version = document["schema_version"]
            if version <= SCHEMA_VERSION:
                return cls.model_validate(document | {"folder": folder})
        except FileNotFoundError:
            raise MissingAsset(f"no sweep at {path}; `lpobench ablate` writes one") from None
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}") from None
        except ValidationError as reason:
            where, what = reason.errors()[0]["loc"], reason.errors()[0]["msg"]
            raise UserError(f"{path} is no sweep: {'.'.join(map(str, where))}: {what}") from None
        except (ValueError, TypeError, KeyError):
            raise UserError(f"{path} is no sweep: no JSON object with a schema_version") from None
        raise UserError(
            f"{path} has schema version {version}, this lpobench reads up to {SCHEMA_VERSION}; upgrade"
        )


def read_sweeps(out: Path) -> list[Sweep]:
    """Every sweep beside the runs in `out`, by id. A damaged one, or one of a later schema, is named on stderr."""
    found = []
    for path in sorted((out / FOLDER).glob(f"*/{FILE}")):
        try:
            found.append(Sweep.read(path.parent))
        except UserError as error:
            print(f"left out: {error}", file=sys.stderr)
    return found
