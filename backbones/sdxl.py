"""Stable Diffusion XL: two text encoders, a UNet that is also told the picture's size, a DDPM schedule."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from backbones.family import PipelineSettings, Place

if TYPE_CHECKING:
    import torch

    from lpobench.types import Backbone


class SDXL(PipelineSettings):
    """Stable Diffusion XL base 1.0: 1024 x 1024 pixels, epsilon prediction."""

    name: ClassVar[str] = "sdxl"
    pipeline: ClassVar[str] = "StableDiffusionXLPipeline"
    parts: ClassVar[tuple[str, ...]] = (
        "unet",
        "vae",
        "text_encoder",
        "tokenizer",
        "text_encoder_2",
        "tokenizer_2",
        "scheduler",
    )
    space: ClassVar[str] = "sdxl-vae-f8c4"
    asset: ClassVar[str] = "sdxl"
    architecture: ClassVar[str] = "sdxl"

    vae: Place | None = "sdxl-vae-fp16-fix"
    """VAE in place of the pipeline's own, which overflows in float16: a folder, an asset's name or a downloaded
    hub id; none: the pipeline's own, run in float32; not read with random weights"""

    def load(self, device: torch.device, dtype: torch.dtype) -> Backbone:
        from backbones._diffusers.sdxl import StableDiffusionXL
        from backbones._diffusers.sources import open_source

        return StableDiffusionXL(self, open_source(self), device, dtype)
