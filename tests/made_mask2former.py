"""Random weights of OpenMMLab's Mask2Former under its own names, and images: the same on every machine.

Sizes of a network small enough for tests; the numbers come from a generator that never changes.
"""

import math
import re
import zlib

import numpy as np
import torch

EMBED, DEPTHS, HEADS = 12, (2, 2, 4, 2), (1, 2, 4, 8)
WIDTH, ATTENTION_HEADS, QUERIES = 64, 8, 20
ENCODER_LAYERS, ENCODER_INNER = 2, 48
DECODER_LAYERS, DECODER_INNER = 3, 96
SCALE = (240, 144)
SIZES = [(96, 96), (130, 210), (300, 180)]
FULL_SIZES = [(512, 512), (500, 700)]
FULL = ((2, 2, 18, 2), 6, 9)
SMALL = (DEPTHS, ENCODER_LAYERS, DECODER_LAYERS)
"""Blocks of each stage, layers of the pixel decoder's encoder and of the decoder."""
NO_WEIGHT = ("relative_position_index", "empty_weight", "class_weight")
"""Ends of the names of tensors that are not trained."""

SIDES = {"mask_feature.bias": -1.6, "mask_embed.4.bias": 1.6}


Shapes = dict[str, list[int]]
Layers = tuple[tuple[int, ...], int, int]
REPEATED = re.compile(
    r"(backbone\.stages\.(\d)\.blocks|.*\.pixel_decoder\.encoder\.layers|.*\.transformer_decoder\.layers)\.(\d+)\.(.*)"
)


def expanded(first: Shapes, layers: Layers) -> Shapes:
    """All shapes, of those of each first layer and of what comes once."""
    depths, encoder, decoder = layers
    found = {}
    for name, shape in first.items():
        if match := REPEATED.fullmatch(name):
            start, stage, _, end = match.groups()
            count = depths[int(stage)] if stage else encoder if ".encoder." in start else decoder
            found |= {f"{start}.{number}.{end}": shape for number in range(count)}
        else:
            found[name] = shape
    return found


def firsts(shapes: Shapes) -> Shapes:
    """What `expanded` needs."""
    return {n: shape for n, shape in shapes.items() if not (m := REPEATED.fullmatch(n)) or m[3] == "0"}


def weights(shapes: Shapes) -> dict[str, torch.Tensor]:
    """A tensor for each name: spread so that a signal passes and classes differ."""
    return {name: torch.from_numpy(_one(name, shape)) for name, shape in shapes.items()}


def _one(name: str, shape: list[int]) -> np.ndarray:
    noise = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    if "norm" in name or ".gn." in name:
        return noise * 0.1 + (1 if name.endswith("weight") else 0)
    if len(shape) == 1:  # biased so that masks are small
        side = next((value for end, value in SIDES.items() if name.endswith(end)), 0)
        return noise * 0.1 + np.float32(side / math.sqrt(shape[0]))
    if name.endswith("cls_embed.weight"):
        return noise * (4 / math.sqrt(shape[1]))
    return noise / math.sqrt(math.prod(shape[1:]))


def image(height: int, width: int, seed: int) -> np.ndarray:
    """Blocks of colour with grain, (H, W, 3) uint8."""
    random = np.random.RandomState(seed)
    blocks = random.randint(0, 256, (8, 8, 3))
    rows, columns = np.arange(height) * 8 // height, np.arange(width) * 8 // width
    grain = random.randint(-20, 21, (height, width, 3))
    return (blocks[rows][:, columns] + grain).clip(0, 255).astype(np.uint8)
