"""Mask2Former as mmdet 2.x runs it: its test pipeline before the network, its fusion head after it."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, UInt8
from torch import Tensor
from torch.nn import functional
from transformers import Mask2FormerForUniversalSegmentation

from evaluators.geneval.rules import Detections

SCALE = (1333, 800)
"""Images are enlarged or reduced to fit into these sides, the longer one first."""
DIVISOR, PADDING = 32, 128
MEAN, STD = np.float64([[123.675, 116.28, 103.53]]), np.float64([[58.395, 57.12, 57.375]])
MOST = 100
"""Detections of an image."""


class Detector:
    """One image at a time, as the official tool: what is found does not depend on the other images."""

    def __init__(self, model: Mask2FormerForUniversalSegmentation, device: torch.device) -> None:
        self.model = model.eval().requires_grad_(False).to(device, torch.float32)
        self.device = device

    @torch.no_grad()
    def find(self, image: UInt8[np.ndarray, "H W 3"], threshold: float) -> Detections:
        """All objects whose score is above the threshold, of the `MOST` that have the highest class scores."""
        resized = resize(image)
        pixels = torch.from_numpy(normalise(pad(resized))).permute(2, 0, 1)[None].to(self.device)
        found = self.model(pixel_values=pixels, pixel_mask=torch.ones_like(pixels[:, 0], dtype=torch.long))
        sizes = pixels.shape[2:], resized.shape[:2], image.shape[:2]
        return fuse(found.class_queries_logits[0], found.masks_queries_logits[0], sizes, threshold)


def resize(image: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """The largest size that fits into `SCALE`, sides rounded to the nearest pixel; bilinear, not antialiased."""
    height, width = image.shape[:2]
    factor = min(SCALE[0] / max(height, width), SCALE[1] / min(height, width))
    size = int(width * factor + 0.5), int(height * factor + 0.5)
    return cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)


def pad(image: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """Grey below and to the right, up to multiples of 32."""
    down, right = (-side % DIVISOR for side in image.shape[:2])
    return cv2.copyMakeBorder(image, 0, down, 0, right, cv2.BORDER_CONSTANT, value=(PADDING,) * 3)


def normalise(image: UInt8[np.ndarray, "H W 3"]) -> Float32[np.ndarray, "H W 3"]:
    """Less the mean, times the inverse deviation, with the library's own rounding between the two."""
    values = cv2.subtract(image.astype(np.float32), MEAN)
    return cv2.multiply(values, 1 / STD)


def fuse(
    classes: Float[Tensor, "q c"],
    masks: Float[Tensor, "q h w"],
    sizes: tuple[tuple[int, int], tuple[int, int], tuple[int, int]],
    threshold: float,
) -> Detections:
    """Instances of the last layer's logits. `sizes` are those of the padded, the resized and the given image.

    A score is the class probability times the mean probability inside the mask, so it is never above the former:
    masks of what cannot pass the threshold are not enlarged.
    """
    padded, resized, given = sizes
    chances = classes.softmax(-1)[:, :-1].flatten()
    chances, places = chances.topk(min(MOST, len(chances)), sorted=False)
    chances, places = chances[chances > threshold], places[chances > threshold]
    num_classes = classes.shape[1] - 1
    logits = _enlarge(masks[places // num_classes], padded)[:, : resized[0], : resized[1]]
    logits = _enlarge(logits, given)
    inside = logits > 0
    share = (logits.sigmoid() * inside).flatten(1).sum(1) / (inside.float().flatten(1).sum(1) + 1e-6)
    scores = chances * share
    kept = scores > threshold
    inside = inside[kept].cpu().numpy()
    return Detections(
        (places[kept] % num_classes).cpu().numpy(), scores[kept].cpu().numpy(), boxes_of(inside), inside
    )


def boxes_of(masks: Bool[np.ndarray, "n H W"]) -> Float32[np.ndarray, "n 4"]:
    """The tightest boxes; zeros for an empty mask."""
    boxes = np.zeros((len(masks), 4), np.float32)
    for box, mask in zip(boxes, masks, strict=True):
        columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
        if len(columns):
            box[:] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return boxes


def _enlarge(masks: Float[Tensor, "n h w"], size: tuple[int, int]) -> Float[Tensor, "n H W"]:
    if not len(masks):  # nothing to interpolate
        return masks.new_zeros((0, *size))
    return functional.interpolate(masks[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
