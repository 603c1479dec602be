"""UniDet in its own process: its code is for non-commercial use, and is not part of this project."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from evaluators.t2i_compbench.detections import Box, Detections
from lpobench.scoring.worker import Worker, WorkerError


class UniDet:
    """A detector that a worker runs; one image at a time."""

    def __init__(self, worker: Worker):
        self.worker = worker

    def find(self, frames: Sequence[UInt8[np.ndarray, "H W 3"]]) -> list[Detections]:
        """Of RGB pictures in the detector's size. Raises WorkerError and MissingAsset."""
        with tempfile.TemporaryDirectory(prefix="lpobench-") as folder:
            path = Path(folder) / "frame.png"
            return [self._find(frame, path) for frame in frames]

    def _find(self, frame: UInt8[np.ndarray, "H W 3"], path: Path) -> Detections:
        Image.fromarray(frame).save(path, compress_level=1)
        answer = self.worker.ask("detect", images=[str(path)])
        try:
            [found] = answer
            return read(found)
        except (KeyError, TypeError, ValueError) as problem:
            told = f"{type(problem).__name__}: {problem}"
            raise WorkerError(f"worker {self.worker.name} answered no detections: {told}") from None


def read(found: Mapping[str, Any]) -> Detections:
    """Raises KeyError, TypeError and ValueError where it is no detections of one image."""
    scores = tuple(float(score) for score in found["scores"])
    if not all(0 <= score <= 1 for score in scores) or list(scores) != sorted(scores, reverse=True):
        raise ValueError("scores should fall from at most 1 to at least 0")
    return Detections(
        tuple(map(str, found["labels"])), scores, tuple(_box(sides) for sides in found["boxes"])
    )


def _box(sides: Sequence[float]) -> Box:
    left, top, right, bottom = (float(side) for side in sides)
    if not (0 <= left <= right and 0 <= top <= bottom):
        raise ValueError(f"{list(sides)} is no box")
    return left, top, right, bottom
