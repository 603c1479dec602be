"""The folders of runs: which are finished, which begun, which cannot be read, and whether their content is whole."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from lpobench.plugin import UserError
from lpobench.records import curves, evaluation, record, sweep
from lpobench.records.pictures import CACHE
from lpobench.records.prompt_scores import ScoreReader
from lpobench.records.record import RunRecord

OTHERS = (CACHE, sweep.FOLDER)
"""Folders beside the runs that are none."""
TRACES = (".lock", "checkpoints", curves.FILE)
"""What a run leaves as soon as it has begun."""
CLOSE = 1e-9
"""Relative difference up to which a mean, computed again, is the one on record."""


@dataclass(frozen=True)
class Shelved:
    """The folder of a run."""

    path: Path
    state: Literal["complete", "unfinished", "unreadable"]
    record: RunRecord | None = None
    problem: str = ""
    """Why it cannot be read."""
    update: int | None = None
    """Of the newest checkpoint of an unfinished run."""

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def size(self) -> int:
        """Bytes on disk, of all files in it."""
        return sum(path.lstat().st_size for path in self.path.rglob("*") if path.is_file())


def shelved(root: Path) -> list[Shelved]:
    """Every run in a folder, by name."""
    folders = sorted(path for path in root.glob("*") if path.is_dir() and path.name not in OTHERS)
    return [_look(path) for path in folders if _is_run(path)]


def problems(found: RunRecord, reader: ScoreReader) -> list[str]:
    """What is wrong with a finished run: files that are missing or changed, and means that its scores do not have."""
    assert found.folder is not None
    broken = [
        f"{name} is {'changed' if (found.folder / name).is_file() else 'missing'}" for name in found.damaged()
    ]
    if broken:
        return broken
    try:
        scores = reader.read(found)
    except UserError as error:
        return [str(error)]
    for place, metric in enumerate(scores.metrics):
        noted = found.metrics[metric]
        means = scores.base[:, place].mean(), scores.method[:, place].mean()
        if not np.allclose(means, (noted.mean_base, noted.mean_method), rtol=CLOSE, atol=CLOSE):
            broken.append(f"{record.FILE} has another mean of {metric} than its scores")
    return broken


def _is_run(path: Path) -> bool:
    if (path / evaluation.FILE).exists():
        return False
    return (path / record.FILE).exists() or any((path / trace).exists() for trace in TRACES)


def _look(path: Path) -> Shelved:
    if (path / record.FILE).exists():
        try:
            return Shelved(path, "complete", RunRecord.read(path))
        except UserError as error:
            return Shelved(path, "unreadable", problem=str(error))
    steps = [step.name.removeprefix("step-") for step in path.glob("checkpoints/step-*")]
    numbers = [int(step) for step in steps if step.isdecimal()]
    return Shelved(path, "unfinished", update=max(numbers, default=None))
