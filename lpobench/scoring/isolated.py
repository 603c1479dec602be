"""An evaluator whose scores are made by its authors' own code, in a worker."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from lpobench.plugin import EvaluatorSettings, Metric, UserError
from lpobench.scoring.evaluate import to_bytes
from lpobench.scoring.pictures import png
from lpobench.scoring.worker import Limits, Worker, WorkerError
from lpobench.types import Prompt


@dataclass(frozen=True)
class Isolated:
    """A live evaluator; images go to the worker as PNG files."""

    worker: Worker
    version: str
    metrics: Mapping[str, Metric]

    def score(self, images: Float[Tensor, "n 3 H W"], prompts: list[Prompt]) -> pd.DataFrame:
        """One row per image. Raises WorkerError and MissingAsset."""
        with tempfile.TemporaryDirectory(prefix="lpobench-") as folder:
            items = []
            for number, (pixels, prompt) in enumerate(zip(to_bytes(images), prompts, strict=True)):
                path = Path(folder) / f"{number}.png"
                path.write_bytes(png(pixels))
                items.append({"image": str(path), "prompt": prompt.text})
            answer = self.worker.ask("score", items=items)
        return self._table(answer, len(prompts))

    def close(self) -> None:
        self.worker.close()

    def _table(self, answer: object, count: int) -> pd.DataFrame:
        """A list of numbers, or one for each metric by its name."""
        columns = answer if isinstance(answer, dict) else {next(iter(self.metrics)): answer}
        if set(columns) != set(self.metrics) or not all(_are_numbers(c, count) for c in columns.values()):
            told = str(answer)
            raise WorkerError(
                f"worker {self.worker.name} answered {told[:60]!r}, which is not {count} numbers for "
                f"{', '.join(self.metrics)}"
            )
        return pd.DataFrame({name: columns[name] for name in self.metrics}, dtype=float)


def isolated(name: str, settings: EvaluatorSettings, device: torch.device, limits: Limits) -> Isolated:
    """A started worker for an evaluator's official code. Raises UserError where it has none, and what `start` does."""
    if settings.official is None:
        raise UserError(f"evaluator {name} has no official package here; use --engine native")
    worker = Worker(settings.official, {**settings.official_options(), "device": str(device)}, limits)
    return Isolated(worker.start(), settings.version, settings.metrics)


def _are_numbers(values: object, count: int) -> bool:
    return (
        isinstance(values, Sequence)
        and len(values) == count
        and all(isinstance(value, float | int) for value in values)
    )
