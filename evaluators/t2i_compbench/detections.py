"""Detected objects, who finds them, and the frame they are found in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from evaluators._pixels import resized

SHORT, LONG = 479, 480
"""A picture's short side is resized to SHORT, or its long side to LONG where it would be longer."""
Box = tuple[float, float, float, float]
"""x and y of the upper left and of the lower right corner."""


@dataclass(frozen=True)
class Detections:
    """The objects of one image, the surest first."""

    labels: tuple[str, ...] = ()
    """UniDet's names, which may be several words, with commas."""
    scores: tuple[float, ...] = ()
    """Between 0 and 1."""
    boxes: tuple[Box, ...] = ()
    """In pixels of the frame."""

    def __post_init__(self) -> None:
        if not len(self.labels) == len(self.scores) == len(self.boxes):
            counts = len(self.labels), len(self.scores), len(self.boxes)
            raise ValueError("{} labels, {} scores and {} boxes".format(*counts))


class Detector(Protocol):
    """UniDet: scores above 0.1, of a class's boxes with an IoU above 0.5 the surest, at most 300 of an image."""

    def find(self, frames: Sequence[UInt8[np.ndarray, "H W 3"]]) -> list[Detections]:
        """Of RGB pictures that `framed` has made; boxes in their pixels."""
        ...


def framed(image: Image.Image) -> Image.Image:
    """The size at which objects are looked for and depths are read: bilinear, with PIL's antialiasing."""
    return resized(image, frame_size(*image.size), Image.Resampling.BILINEAR)


def frame_size(width: int, height: int) -> tuple[int, int]:
    """A square becomes 479 x 479."""
    short, long = sorted((width, height))
    sides = SHORT, int(SHORT * long / short)
    if sides[1] > LONG:
        sides = int(LONG * SHORT / sides[1]), LONG
    return sides if width <= height else sides[::-1]


def iou(a: Box, b: Box) -> float:
    """Intersection over union; 0 where they do not touch, also of boxes without an area."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    common = width * height
    return common / (_area(a) + _area(b) - common) if common else 0.0


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
