"""FLUX.1-dev: T5's tokens and a pooled CLIP, a transformer over packed latents, flow matching, distilled guidance.

Its grid ends with a long step, from sigma 0.26 at 10 steps and 1024 pixels. Under the rules flow_sde and dance_sde, as
released, that step leaves as much noise in the picture as any other; under ddim and cps, or outside a window, none.

FLUX.1-schnell is refused: trained to jump in four steps, its output is no velocity of the flow, which every step
rule takes it for.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeFloat

from backbones.family import PipelineSettings, read_json
from lpobench.plugin import UserError

if TYPE_CHECKING:
    import torch

    from lpobench.types import Backbone


class OnFluxLatents(PipelineSettings):
    """What models on FLUX.1's latents share: a transformer with a token for 2 x 2 of them, made for 1024 pixels."""

    prediction: ClassVar[str] = "flow"
    space: ClassVar[str] = "flux-vae-f8c16"
    resolution_step: ClassVar[int] = 16
    slices_attention: ClassVar[bool] = False
    one_file: ClassVar[bool] = False
    made_for: ClassVar[int | None] = 1024

    @property
    def image_tokens(self) -> int:
        """Tokens of one image."""
        return (self.pixels // self.resolution_step) ** 2


class Flux(OnFluxLatents):
    """FLUX.1-dev, 12 billion parameters: 1024 x 1024 pixels, flow matching, distilled guidance."""

    name: ClassVar[str] = "flux"
    pipeline: ClassVar[str] = "FluxPipeline"
    parts: ClassVar[tuple[str, ...]] = (
        "transformer",
        "vae",
        "text_encoder",
        "tokenizer",
        "text_encoder_2",
        "tokenizer_2",
        "scheduler",
    )
    asset: ClassVar[str] = "flux"
    architecture: ClassVar[str] = "flux"
    usual_guidance: ClassVar[float] = 1.0

    distilled_guidance: NonNegativeFloat = 3.5
    """the guidance told to the transformer as a number (the stock pipeline's guidance_scale), at no cost.
    sampling.guidance_scale and eval.guidance_scale are a second, classifier-free one, off at 1, their default here"""
    t5: Literal["cpu", "device"] = "device"
    """the T5 text encoder, 4.7 billion parameters, without which no text is read: device: with the others; cpu: kept
    and run there, in bfloat16 if the run is in half precision"""
    t5_tokens: Annotated[int, Field(ge=1, le=512)] = 512
    """text tokens (diffusers' max_sequence_length)"""

    def load(self, device: torch.device, dtype: torch.dtype) -> Backbone:
        from backbones._diffusers.flux import Flux1
        from backbones._diffusers.sources import open_source

        return Flux1(self, open_source(self), device, dtype)

    def _check_folder(self, folder: Path) -> None:
        super()._check_folder(folder)
        config = read_json(folder / "transformer" / "config.json")
        if not config.get("guidance_embeds"):
            raise UserError(
                f"{folder} has no distilled guidance (guidance_embeds is off), as FLUX.1-schnell; "
                f"backbone {self.name} is for FLUX.1-dev"
            )
