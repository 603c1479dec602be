"""Pictures as the released code prepares them: 8-bit, through PIL, with its resampling and its way to crop.

    floor   transformers: a centre crop begins at (H - s) // 2
    round   torchvision: at round((H - s) / 2), of halves to the even side

The two differ by a row where the remainder is 3, 7, 11, ...; a short side that is resized to s leaves none of itself.
"""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, Self

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from lpobench.plugin import UserError

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
Crop = Literal["floor", "round"]
THREADS = min(8, os.cpu_count() or 1)
"""That prepare the pictures of a batch; PIL lets them run beside each other."""


@dataclass(frozen=True)
class Preparation:
    """Short side to `size`, bicubic; the middle square; normalised."""

    size: int
    crop: Crop
    mean: tuple[float, ...] = OPENAI_MEAN
    std: tuple[float, ...] = OPENAI_STD

    @classmethod
    def read(cls, path: Path, size: int, crop: Crop) -> Self:
        """With the mean and std of a preprocessor_config.json, where there is one. Raises UserError."""
        if not path.is_file():
            return cls(size, crop)
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            return cls(size, crop, tuple(found["image_mean"]), tuple(found["image_std"]))
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} gives no image_mean and image_std") from error

    def geometry(self, height: int, width: int) -> tuple[tuple[int, int], tuple[int, int, int, int]]:
        """Width and height of the resized picture, and the box (left, top, right, bottom) that is cut out of it."""
        short, long = sorted((height, width))
        other = int(self.size * long / short)
        sides = (self.size, other) if width <= height else (other, self.size)
        left, top = (self._offset(side) for side in sides)
        return sides, (left, top, left + self.size, top + self.size)

    def __call__(self, images: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n 3 s s"]:
        """Of 8-bit pictures in [0, 1]; float32, on their device."""
        cut = partial(_cut, *self.geometry(*images.shape[-2:]))
        pictures = to_bytes(images)
        with ThreadPoolExecutor(min(len(pictures), THREADS)) as pool:
            pixels = np.stack(list(pool.map(cut, pictures)))
        return normalised(pixels, self.mean, self.std, images.device)

    def _offset(self, side: int) -> int:
        spare = side - self.size
        return spare // 2 if self.crop == "floor" else round(spare / 2)


def resized(picture: Image.Image, size: tuple[int, int], resample: Image.Resampling) -> Image.Image:
    """To a width and height, the width first, as Pillow did in the released environments.

    Newer ones take the height first where that is less work; between the two passes values are rounded and clipped.
    """
    return picture.resize((size[0], picture.height), resample).resize(size, resample)


def _cut(
    sides: tuple[int, int], box: tuple[int, int, int, int], picture: UInt8[np.ndarray, "H W 3"]
) -> UInt8[np.ndarray, "s s 3"]:
    return np.asarray(resized(Image.fromarray(picture), sides, Image.Resampling.BICUBIC).crop(box))


def to_bytes(images: Float[Tensor, "n 3 H W"]) -> UInt8[np.ndarray, "n H W 3"]:
    """The 8-bit pictures that images in [0, 1] are."""
    return (images.float() * 255).round().byte().movedim(1, -1).cpu().numpy()


def normalised(
    pixels: UInt8[np.ndarray, "n H W 3"],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    device: torch.device,
) -> Float[Tensor, "n 3 H W"]:
    """8-bit pictures over 255, less the mean, over the standard deviation."""
    unit = torch.from_numpy(pixels).to(device).movedim(-1, 1).float() / 255
    return standardised(unit, mean, std)


def standardised(
    images: Float[Tensor, "n 3 H W"], mean: tuple[float, ...], std: tuple[float, ...]
) -> Float[Tensor, "n 3 H W"]:
    """Less the mean, over the standard deviation, of each channel."""
    middle, spread = (images.new_tensor(value).view(3, 1, 1) for value in (mean, std))
    return (images - middle) / spread
