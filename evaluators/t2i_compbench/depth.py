"""Relative depth by DPT-hybrid, at 480 x 480, as the official 3D script makes and keeps it.

picture     480 x 480, bilinear PIL, whatever its shape; less 0.5, over 0.5
network     position embeddings resized bilinearly from 24 x 24; LayerNorms of eps 1e-6, as in the released code
map         from its least to its greatest value, enlarged to the picture (corners aligned), rounded down to 8 bits,
            then resized to the detector's frame: larger is nearer

float32; the official script lets a GPU compute in half precision.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional
from transformers import DPTConfig, DPTForDepthEstimation

from evaluators._files import fill, from_folder, inside, quiet
from evaluators._pixels import normalised, resized
from evaluators.t2i_compbench import depth_keys
from evaluators.t2i_compbench.detections import framed
from lpobench.plugin import UserError
from lpobench.weights import read_tensors, told

SIDE = 480
HALF = (0.5, 0.5, 0.5)


class DepthMeter:
    """One image at a time: a map does not depend on the other images."""

    def __init__(self, model: DPTForDepthEstimation):
        self.model = model

    def map(self, image: UInt8[np.ndarray, "H W 3"]) -> Float[Tensor, "h w"]:
        """Of the frame of a picture, on the CPU, 0 to 1."""
        height, width = image.shape[:2]
        return in_frame(self.inverse_depth(image), (height, width))

    @torch.no_grad()
    def inverse_depth(self, image: UInt8[np.ndarray, "H W 3"]) -> Float[Tensor, "480 480"]:
        """The network's own scale."""
        picture = resized(Image.fromarray(image), (SIDE, SIDE), Image.Resampling.BILINEAR)
        pixels = normalised(np.array(picture)[None], HALF, HALF, self.model.device)
        return self.model(pixels).predicted_depth[0]


def in_frame(depth: Float[Tensor, "h w"], size: tuple[int, int]) -> Float[Tensor, "H W"]:
    """Of a picture of this height and width. A depth that is the same everywhere is 0."""
    low, high = depth.min(), depth.max()
    unit = (depth - low) / (high - low) if high > low else torch.zeros_like(depth)
    large = functional.interpolate(unit[None, None], size=size, mode="bilinear", align_corners=True)[0, 0]
    kept = Image.fromarray((255 * large).byte().cpu().numpy())
    return torch.from_numpy(np.array(framed(kept))).float() / 255


def read_model(place: Path) -> DPTForDepthEstimation:
    """The released file, or a folder in transformers' layout. float32, on the CPU, for pictures of 480 x 480.

    Raises MissingAsset or UserError.
    """
    model = _released(place) if place.is_file() else _folder(place)
    model.dpt.embeddings.image_size = (
        SIDE,
        SIDE,
    )  # it resizes its position embeddings, once it lets the picture in
    return model.requires_grad_(False).eval()


def _released(file: Path) -> DPTForDepthEstimation:
    weights = read_tensors(file)
    try:
        config = depth_keys.config_of(weights)
    except (KeyError, IndexError) as error:
        raise UserError(f"{file} is no DPT-hybrid: {error} is missing") from error
    with torch.device("meta"):
        model = DPTForDepthEstimation(config)
    fill(model, depth_keys.renamed(weights), file, torch.float32)
    return model


def _folder(folder: Path) -> DPTForDepthEstimation:
    inside(folder, "model.safetensors", "pytorch_model.bin")
    with told(inside(folder, "config.json")), quiet():
        config = DPTConfig.from_pretrained(folder, local_files_only=True)
    if not config.is_hybrid:
        raise UserError(f"{folder} is no DPT-hybrid, but another DPT")
    config.layer_norm_eps = depth_keys.EPS
    return from_folder(DPTForDepthEstimation, folder, config, "DPT-hybrid", torch.float32)
