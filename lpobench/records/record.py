"""RunRecord: everything a table needs to be trusted and traced, as one JSON document.

A record is written once, at the end of a run whose every step succeeded, by renaming a finished file into
place: a run folder without one is an unfinished run.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError

from lpobench.hashing import file_sha256
from lpobench.plugin import MissingAsset, Settings, UserError

SCHEMA_VERSION = 2
"""2: says who gave which metric, and which of them the reward is."""
FILE = "record.json"


class Paired(Settings):
    """One metric of the base and of the method, over the same prompts and the same noise."""

    mean_base: float
    mean_method: float
    difference: float
    """Mean over prompts of method minus base."""
    low: float | None
    """Lower end of the confidence interval of the difference; None with fewer than two prompts."""
    high: float | None
    win_rate: float
    """Share of prompts on which the method is the better of the two; a tie counts one half."""
    num_prompts: int
    higher_is_better: bool = True


class Group(Settings):
    """Means of one metric over the prompts of one task."""

    num_prompts: int
    mean_base: float
    mean_method: float


class Cost(Settings):
    """What one phase took, summed over the attempts of an interrupted run."""

    seconds: float = 0.0
    calls: int = 0
    """Forward passes of the denoiser."""
    rows: int = 0
    """Latents that went through it; guidance doubles rows, not calls."""
    decodes: int = 0
    """Images decoded from latents."""


class Protocol(Settings):
    """How the images were made and scored. Numbers of two protocols are not comparable."""

    protocol: str = "standard@1"
    """Its versioned name: `lpobench list protocols`."""
    source: str
    """Name or file the prompts came from."""
    num_prompts: int
    num_texts: int
    """Distinct texts among them; the bootstrap resamples these."""
    prompts_sha256: str
    images_per_prompt: int
    num_steps: int
    guidance_scale: float
    seed: int
    confidence: float
    bootstrap_samples: int
    evaluators: dict[str, str]
    """Version of each evaluator."""


class Checkpoint(Settings):
    """Weights that were scored in place of a trained policy."""

    name: str
    """Its column in the table."""
    loaded: str
    """What was put onto the denoiser."""
    sha256: str
    """Of the file, or over all files of the folder."""


class Git(Settings):
    """State of the working tree the code ran from."""

    commit: str
    dirty: bool


class RunRecord(Settings):
    """One finished run."""

    schema_version: int = SCHEMA_VERSION
    id: str
    status: Literal["complete"] = "complete"
    spec: dict[str, Any]
    """The run's specification: what `lpobench show` prints."""
    backbone: str
    method: str
    reward: str | None
    seed: int
    """Training seed."""
    limit: int | None
    """The --limit it was run with: for trying things, not for tables."""
    trained: bool
    """False when the method trains nothing."""
    sampled: bool = False
    """The method made its images with a sampler of its own."""
    checkpoint: Checkpoint | None = None
    """What was scored instead of training, if anything was."""
    trained_reward: str | None
    """Name in the cache of the reward model that --train-reward trained; None when the reward was given."""
    reward_seconds: float | None = None
    """Wall time of training that model, in whichever process it was trained; None in older records."""
    base: str
    """Fingerprint of the untouched backbone: equal for runs from the same weights in the same precision."""
    started: datetime
    finished: datetime
    versions: dict[str, str]
    git: Git | None
    """None when the code does not run from a git working tree."""
    device: str
    processes: int = 1
    """Processes that shared the work, each with such a device."""
    costs: dict[str, Cost]
    """Per phase, in the order they ran."""
    reused: tuple[str, ...]
    """Phases whose result an earlier run had already made; they cost this run nothing."""
    peak_memory_bytes: int
    """Of the accelerator when there is one, else resident memory of the process; the largest of all processes."""
    image_batch: int | None = None
    """Images that were made at a time, where eval.batch_size did not fit in memory. It changes no image."""
    protocol: Protocol
    metrics: dict[str, Paired]
    scored_by: dict[str, str] = Field(default_factory=dict)
    """Metric -> its evaluator in the protocol; empty in records of schema 1."""
    trained_on: tuple[str, ...] | None = None
    """The metrics that are the run's reward, or part of it; None in records of schema 1."""
    groups: dict[str, dict[str, Group]]
    """Metric, then task."""
    check: str | None
    """The yes/no metric that is marked in the grid and shown by task."""
    training: dict[str, Any] | None
    """Summary by the training loop."""
    files: dict[str, str]
    """SHA-256 of every file the run made, by path inside its folder."""
    folder: Path | None = Field(default=None, exclude=True)
    """Where it was read from or written to."""

    @property
    def phases(self) -> dict[str, float]:
        """Wall seconds per phase."""
        return {name: cost.seconds for name, cost in self.costs.items()}

    @property
    def variant(self) -> str | None:
        """What the base is compared with, as tables and scores.csv call it; None where there is nothing."""
        if self.checkpoint:
            return self.checkpoint.name
        return self.method if self.trained or self.sampled else None

    @property
    def optimised(self) -> frozenset[str]:
        """The metrics that the run was trained on."""
        if self.trained_on is not None:
            return frozenset(self.trained_on)
        return frozenset({self.reward} & self.metrics.keys())

    def scorer_of(self, metric: str) -> str:
        """The evaluator, or where the record does not tell, all that it may be."""
        evaluators = self.protocol.evaluators
        named = self.scored_by.get(metric, metric if metric in evaluators else metric.partition(".")[0])
        return named if named in evaluators else " or ".join(e for e in evaluators if e != self.reward)

    def version_of(self, metric: str) -> str:
        """Of what gave a metric; numbers of two versions are not comparable."""
        return " ".join(self.protocol.evaluators[name] for name in self.scorer_of(metric).split(" or "))

    @property
    def complete(self) -> bool:
        """Whether every file it lists is in its folder, unchanged."""
        return self.folder is not None and not self.damaged()

    def damaged(self) -> list[str]:
        """Listed files that are missing or changed."""
        made = {name: self.folder / name for name in self.files}
        return [
            name for name, path in made.items() if not path.is_file() or file_sha256(path) != self.files[name]
        ]

    def write(self, folder: Path) -> Self:
        """Write record.json into the run folder, atomically; returns the record that knows its folder."""
        write_atomic(folder / FILE, self.model_dump_json(indent=2) + "\n")
        return self.model_copy(update={"folder": folder})

    @classmethod
    def read(cls, path: Path) -> Self:
        """The record in a run folder, or the record file itself. Raises UserError, MissingAsset."""
        path = path / FILE if path.is_dir() else path
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise MissingAsset(f"no record at {path}; a run writes one when it has finished") from None
        except UnicodeDecodeError:
            raise UserError(f"{path} is not a run record: no text") from None
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}") from None
        try:
            document = json.loads(text)
            version = document["schema_version"]
            if version <= SCHEMA_VERSION:
                return cls.model_validate(document | {"folder": path.parent})
        except ValidationError as reason:
            where, what = reason.errors()[0]["loc"], reason.errors()[0]["msg"]
            raise UserError(f"{path} is not a run record: {'.'.join(map(str, where))}: {what}") from None
        except (json.JSONDecodeError, TypeError, KeyError):
            raise UserError(f"{path} is not a run record: no JSON object with a schema_version") from None
        raise UserError(
            f"{path} has schema version {version}, this lpobench reads up to {SCHEMA_VERSION}; upgrade"
        )


def run_name(run_id: str, limit: int | None = None, train_reward: bool = False) -> str:
    """Folder name of a run: its spec's id, and what else it was started with that changes its result."""
    return f"{run_id}{'-own-reward' if train_reward else ''}{'' if limit is None else f'-limit{limit}'}"


def read_all(root: Path) -> list[RunRecord]:
    """Every record below a folder of runs, by id. What cannot be read, and copies, are named on stderr and left out."""
    found: dict[str, RunRecord] = {}
    for path in sorted(root.glob(f"*/{FILE}"), key=lambda path: path.parent.name):
        try:
            record = RunRecord.read(path)
        except UserError as error:
            print(f"left out: {error}", file=sys.stderr)
            continue
        other = found.setdefault(record.id, record)
        if other is not record:
            kept, copy = (record, other) if path.parent.name == record.id else (other, record)
            found[record.id] = kept
            print(f"left out: {copy.folder} is run {record.id} again, as in {kept.folder}", file=sys.stderr)
    return [found[name] for name in sorted(found)]


def find_complete(folder: Path) -> RunRecord | None:
    """The record of a finished run whose files are all there, if the folder holds one."""
    if not (folder / FILE).exists():
        return None
    record = RunRecord.read(folder)
    return record if record.complete else None


def inventory(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """SHA-256 of the named files and of every file below the named folders, as far as they exist."""
    return {
        path.relative_to(folder).as_posix(): file_sha256(path)
        for name in names
        for path in _files(folder / name)
    }


def write_atomic(path: Path, text: str) -> None:
    """Write a file so that readers see the old one or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    elif path.is_dir():
        yield from sorted(p for p in path.rglob("*") if p.is_file())
