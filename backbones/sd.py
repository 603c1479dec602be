"""Stable Diffusion 1.5 and 2.1: one text encoder, a UNet, a DDPM schedule."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from backbones.family import PipelineSettings

if TYPE_CHECKING:
    import torch

    from lpobench.types import Backbone


class SD15(PipelineSettings):
    """Stable Diffusion 1.5: 512 x 512 pixels, epsilon prediction."""

    name: ClassVar[str] = "sd15"
    pipeline: ClassVar[str] = "StableDiffusionPipeline"
    parts: ClassVar[tuple[str, ...]] = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
    space: ClassVar[str] = "sd-vae-f8c4"
    asset: ClassVar[str] = "sd15"
    architecture: ClassVar[str] = "sd15"

    def load(self, device: torch.device, dtype: torch.dtype) -> Backbone:
        from backbones._diffusers.sd import StableDiffusion
        from backbones._diffusers.sources import open_source

        return StableDiffusion(self, open_source(self), device, dtype)


class SD21(SD15):
    """Stable Diffusion 2.1-base: 512 x 512 pixels, epsilon prediction."""

    name: ClassVar[str] = "sd21"
    asset: ClassVar[str] = "sd21"
    architecture: ClassVar[str] = "sd21"


class SD21V(SD15):
    """Stable Diffusion 2.1: 768 x 768 pixels, v-prediction."""

    name: ClassVar[str] = "sd21-v"
    prediction: ClassVar[str] = "v_prediction"
    asset: ClassVar[str] = "sd21-v"
    architecture: ClassVar[str] = "sd21-v"
