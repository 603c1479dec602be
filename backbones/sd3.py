"""Stable Diffusion 3 and 3.5: three text encoders, a transformer over text and image tokens, flow matching."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from backbones.family import PipelineSettings, read_json
from lpobench.plugin import UserError

if TYPE_CHECKING:
    import torch

    from lpobench.types import Backbone


class SD3Medium(PipelineSettings):
    """Stable Diffusion 3 medium: 1024 x 1024 pixels, flow matching."""

    name: ClassVar[str] = "sd3"
    pipeline: ClassVar[str] = "StableDiffusion3Pipeline"
    parts: ClassVar[tuple[str, ...]] = (
        "transformer",
        "vae",
        "text_encoder",
        "tokenizer",
        "text_encoder_2",
        "tokenizer_2",
        "scheduler",
    )
    prediction: ClassVar[str] = "flow"
    space: ClassVar[str] = "sd3-vae-f8c16"
    asset: ClassVar[str] = "sd3"
    architecture: ClassVar[str] = "sd3"
    resolution_step: ClassVar[int] = 16
    slices_attention: ClassVar[bool] = False

    t5: Literal["off", "cpu", "device"] = "device"
    """the T5 text encoder, 4.7 billion parameters: off: zeros in its place, as the model's authors do without it;
    cpu: kept and run there, in bfloat16 if the run is in half precision; device: with the others"""
    t5_tokens: Annotated[int, Field(ge=1, le=512)] = 256
    """text tokens of T5, or zeros in their place (diffusers' max_sequence_length)"""

    def load(self, device: torch.device, dtype: torch.dtype) -> Backbone:
        from backbones._diffusers.sd3 import StableDiffusion3
        from backbones._diffusers.sources import open_source

        return StableDiffusion3(self, open_source(self), device, dtype)

    def _check_folder(self, folder: Path) -> None:
        super()._check_folder(folder)
        if self.t5 == "off":
            return
        index = read_json(folder / "model_index.json")
        for part in ("text_encoder_3", "tokenizer_3"):
            if index.get(part, [None])[0] is None or not (folder / part).is_dir():
                raise UserError(f"{folder} has no {part}, which is T5's; set backbone.t5 to off, or add it")


class SD35Medium(SD3Medium):
    """Stable Diffusion 3.5 medium: 1024 x 1024 pixels, flow matching."""

    name: ClassVar[str] = "sd35"
    asset: ClassVar[str] = "sd35"
    architecture: ClassVar[str] = "sd35"


class SD35Large(SD3Medium):
    """Stable Diffusion 3.5 large, 8 billion parameters: 1024 x 1024 pixels, flow matching."""

    name: ClassVar[str] = "sd35-large"
    asset: ClassVar[str] = "sd35-large"
    architecture: ClassVar[str] = "sd35-large"
