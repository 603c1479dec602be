"""Random weights and pictures that are the same under every version of every library: from a seed, by name.

The golden numbers of tests/evaluators/golden were made by the scorers' official code on these weights; numpy only,
so that their old environments can import it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence

import numpy as np

Shapes = Mapping[str, Sequence[int]]


def uniform(name: str, shape: Sequence[int], low: float, high: float) -> np.ndarray:
    """float32 in [low, high); 24 random bits each."""
    size = math.prod(shape)
    drawn = np.frombuffer(random.Random(name).randbytes(4 * size), "<u4") >> 8
    return (low + (high - low) * (drawn / 2**24)).astype(np.float32).reshape(shape)


def weights(shapes: Shapes, seed: int = 0, gain: float = 1.0) -> dict[str, np.ndarray]:
    """Of a state dict's shapes. Matrices keep the size of what goes through them, times `gain`; the one-dimensional
    are around 1 where they scale (called `weight`), around 0 where they shift.
    """
    found = {}
    for name, shape in shapes.items():
        if len(shape) >= 2:
            width = gain * math.sqrt(3 / math.prod(shape[1:]))
            found[name] = uniform(f"{seed} {name}", shape, -width, width)
        else:
            middle = 1.0 if name.endswith("weight") else 0.0
            found[name] = uniform(f"{seed} {name}", shape, middle - 0.2, middle + 0.2)
    return found


def picture(width: int, height: int, seed: int = 0) -> np.ndarray:
    """Hard edges under noise, uint8 (height, width, 3)."""
    draw = random.Random(f"picture {seed}")
    rows, columns = np.arange(height) * 5 // height, np.arange(width) * 7 // width
    blocks = np.frombuffer(draw.randbytes(5 * 7 * 3), np.uint8).reshape(5, 7, 3)[rows][:, columns]
    noise = np.frombuffer(draw.randbytes(height * width * 3), np.uint8).reshape(height, width, 3)
    return ((3 * blocks.astype(np.uint16) + noise) // 4).astype(np.uint8)


SIZES = [(224, 224), (512, 512), (301, 224), (200, 333), (97, 150), (640, 353)]
"""Width and height of the golden pictures: as is, smaller, and both orientations with odd remainders."""
PROMPTS = [
    "a photo of a red cube",
    "two dogs, one cat & a \"sign\" that says HELLO-WORLD's 100% café",
    "",
    "an astronaut riding a horse on the moon, " * 12,
]
"""Plain, odd, empty, and longer than any text encoder reads."""


def pictures() -> list[np.ndarray]:
    return [picture(*size, seed=number) for number, size in enumerate(SIZES)]
