"""EvalRecord: what one evaluation of one model under one protocol found, as one JSON document.

It is written whole when every image has every score, and again when scorers are added.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from pydantic import Field, ValidationError

from lpobench.plugin import MissingAsset, Settings, UserError
from lpobench.records.record import Checkpoint, Cost, Git, Protocol

FILE = "evaluation.json"
SCHEMA_VERSION = 1


class Mean(Settings):
    """One metric over all prompts; the images of one prompt are averaged first."""

    mean: float
    low: float | None
    """Lower end of the confidence interval over prompts; None with fewer than two."""
    high: float | None
    num_prompts: int
    num_images: int
    higher_is_better: bool
    unit: str


class TaskMean(Settings):
    """One metric over the prompts of one task."""

    mean: float
    num_prompts: int


class Difference(Settings):
    """What the official code says, beside ours, over the same images: official minus native."""

    mean: float
    largest: float
    """In size."""


class EvalRecord(Settings):
    """One finished evaluation."""

    schema_version: int = SCHEMA_VERSION
    id: str
    backbone: str
    weights: str
    """What was put onto the backbone; "none" for its own."""
    checkpoint: Checkpoint | None = None
    backbone_settings: dict[str, Any]
    precision: str
    base: str
    """Fingerprint of the untouched backbone."""
    protocol: Protocol
    means: str
    """What the protocol is, in a sentence."""
    limits: str
    """What of it cannot be reproduced exactly here."""
    cut: bool
    """Fewer prompts than the protocol has: for trying things, not for tables."""
    finished: datetime
    versions: dict[str, str]
    git: Git | None
    device: str
    processes: int
    costs: dict[str, Cost]
    """Of the attempt that finished it: what was there already cost nothing."""
    made: dict[str, int]
    """Images of that attempt, by phase."""
    metrics: dict[str, Mean]
    tasks: dict[str, dict[str, TaskMean]]
    """Metric, then task."""
    shown: tuple[str, ...] = ()
    """The metrics that tables show by task: the yes/no ones, or else the first."""
    suites: dict[str, dict[str, float]]
    """Evaluator -> its numbers of the whole suite."""
    differences: dict[str, Difference] = Field(default_factory=dict)
    """Metric -> official code against ours, where both have scored."""
    scorers: dict[str, dict[str, Any]]
    """Settings of each evaluator."""
    files: dict[str, str]
    folder: Path | None = Field(default=None, exclude=True)
    """Where it was read from or written to."""

    @property
    def column(self) -> str:
        """What tables call it."""
        return self.backbone if self.weights == "none" else f"{self.weights} on {self.backbone}"

    def document(self) -> str:
        """The text of its file."""
        return self.model_dump_json(indent=2) + "\n"

    @classmethod
    def read(cls, path: Path) -> Self:
        """The record in a folder. Raises UserError, MissingAsset."""
        try:
            document = json.loads((path / FILE).read_text(encoding="utf-8"))
            if document["schema_version"] > SCHEMA_VERSION:
                raise UserError(f"{path / FILE} was written by a later lpobench; upgrade")
            return cls.model_validate(document | {"folder": path})
        except FileNotFoundError:
            raise MissingAsset(f"no evaluation in {path}") from None
        except (json.JSONDecodeError, TypeError, KeyError, ValidationError) as reason:
            what = str(reason).splitlines()[0]
            raise UserError(f"{path / FILE} is not an evaluation's record: {what}") from None


def read_evaluations(root: Path) -> list[EvalRecord]:
    """Every evaluation below a folder, by id. What cannot be read is named on stderr and left out."""
    found = []
    for path in sorted(root.glob(f"*/{FILE}")):
        try:
            found.append(EvalRecord.read(path.parent))
        except UserError as error:
            print(f"left out: {error}", file=sys.stderr)
    return found


def comparable(records: Sequence[EvalRecord]) -> list[list[EvalRecord]]:
    """Records grouped by what their numbers may be compared under: the protocol, and all in it but the scorers."""
    groups: list[list[EvalRecord]] = []
    for record in records:
        for group in groups:
            if _conditions(group[0].protocol) == _conditions(record.protocol):
                group.append(record)
                break
        else:
            groups.append([record])
    return groups


def check_comparable(records: Sequence[EvalRecord]) -> None:
    """Raises UserError for records whose numbers must not share a table."""
    for record in records[1:]:
        first, here = _conditions(records[0].protocol), _conditions(record.protocol)
        if other := [name for name in first if name in here and first[name] != here[name]]:
            raise UserError(
                f"{record.id} and {records[0].id} are not comparable: they differ in {', '.join(other)}; numbers of "
                "different protocols never share a table"
            )


def _conditions(protocol: Protocol) -> dict[str, Any]:
    """Guidance may differ where the protocol has a rule for it, by backbone and weights."""
    ruled = {"guidance_scale"} if protocol.protocol != "standard@1" else set()
    return protocol.model_dump(exclude={"evaluators", *ruled})
