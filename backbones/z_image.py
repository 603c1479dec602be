"""Z-Image: Qwen3's states of a prompt and latents in one stream of tokens, flow matching, on FLUX.1's latents.

Z-Image-Turbo differs in its shift alone and cannot be told apart; distilled to few steps, it is not for training.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from backbones.flux import OnFluxLatents

if TYPE_CHECKING:
    import torch

    from lpobench.types import Backbone


class ZImage(OnFluxLatents):
    """Z-Image, 6 billion parameters: 1024 x 1024 pixels, flow matching, FLUX.1's latents."""

    name: ClassVar[str] = "z-image"
    pipeline: ClassVar[str] = "ZImagePipeline"
    parts: ClassVar[tuple[str, ...]] = ("transformer", "vae", "text_encoder", "tokenizer", "scheduler")
    asset: ClassVar[str] = "z-image"
    architecture: ClassVar[str] = "z-image"

    text_tokens: Annotated[int, Field(ge=1, le=512)] = 512
    """text tokens at most, those of the chat around a prompt among them (diffusers' max_sequence_length)"""

    def load(self, device: torch.device, dtype: torch.dtype) -> Backbone:
        from backbones._diffusers.sources import open_source
        from backbones._diffusers.z_image import ZImageLive

        return ZImageLive(self, open_source(self), device, dtype)
