"""Live FLUX.1. Outside, latents are those of its VAE, (n, 16, h, w); inside, the transformer's tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from diffusers import FluxTransformer2DModel
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle
from transformers import CLIPTextModel, CLIPTokenizer, T5Tokenizer

from backbones._diffusers.base import LatentDiffusion
from backbones._diffusers.sources import Source
from backbones._diffusers.text import encode_t5, load_t5, token_ids
from lpobench.sampling import RectifiedFlow
from lpobench.types import Conditioning

if TYPE_CHECKING:
    from backbones.flux import Flux

PATCH = 2
"""Latents on a side of a token."""


@dataclass(frozen=True)
class FluxConditioning(Conditioning):
    """What the transformer's text stream starts from, and what joins its timestep and guidance."""

    prompt_embeds: Float[Tensor, "n tokens width"]
    """T5's last hidden states."""
    pooled: Float[Tensor, "n pooled"]
    """CLIP's pooled state."""


class Flux1(LatentDiffusion):
    """CLIP, T5, a transformer of blocks with two streams and with one, a VAE, a rectified flow."""

    component = "transformer"
    encoders = ("text_encoder", "text_encoder_2")
    lora_targets = (  # Flow-GRPO's, which are those of diffusers' own training script for FLUX.1
        "attn.to_q",
        "attn.to_k",
        "attn.to_v",
        "attn.to_out.0",
        "attn.add_q_proj",
        "attn.add_k_proj",
        "attn.add_v_proj",
        "attn.to_add_out",
        "ff.net.0.proj",
        "ff.net.2",
        "ff_context.net.0.proj",
        "ff_context.net.2",
    )

    def __init__(self, settings: Flux, source: Source, device: torch.device, dtype: torch.dtype):
        super().__init__(settings, source, device, dtype)
        self.schedule = RectifiedFlow.from_scheduler_config(source.scheduler_config(), settings.image_tokens)
        self.t5_tokens, self.distilled_guidance = settings.t5_tokens, settings.distilled_guidance
        self.tokenizer = source.tokenizer("tokenizer", CLIPTokenizer)
        self.tokenizer_2 = source.tokenizer("tokenizer_2", T5Tokenizer)
        self.text_encoder = self.load_text_encoder("text_encoder", CLIPTextModel)
        self.text_encoder_2 = load_t5(self, "text_encoder_2", settings.t5)
        self.transformer = self.load_denoiser(FluxTransformer2DModel)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        side = self.settings.pixels // self.pixels_per_latent
        return self.transformer.config.in_channels // PATCH**2, side, side

    @torch.no_grad()
    def encode_prompt(self, prompts: list[str]) -> FluxConditioning:
        """One row per prompt; the negative prompt of FLUX.1 is "", encoded."""
        with self.encoding():
            clip_ids = token_ids(self.tokenizer, prompts, self.tokenizer.model_max_length)
            pooled = self.text_encoder(clip_ids.to(self.device)).pooler_output
            t5_ids = token_ids(self.tokenizer_2, prompts, self.t5_tokens)
            return FluxConditioning(encode_t5(self, self.text_encoder_2, t5_ids), pooled)

    def predict(
        self, latents: Float[Tensor, "n c h w"], t: Float[Tensor, " n"], conditioning: FluxConditioning
    ) -> Float[Tensor, "n c h w"]:
        """The transformer's raw output, the flow's velocity under the distilled guidance."""
        height, width = (side // PATCH for side in latents.shape[-2:])
        text = conditioning.prompt_embeds
        output = self.transformer(
            hidden_states=packed(latents.to(self.dtype)),
            encoder_hidden_states=text,
            pooled_projections=conditioning.pooled,
            timestep=t / 1000,
            guidance=torch.full_like(t, self.distilled_guidance),
            img_ids=places(height, width, self.device),
            txt_ids=torch.zeros((text.shape[1], 3), device=self.device),
            return_dict=False,
        )[0]
        return unpacked(output, height)


def packed(latents: Float[Tensor, "n c h w"]) -> Float[Tensor, "n tokens channels"]:
    """A token for 2 x 2 latents, row by row: their channels side by side, each channel's four together."""
    return pixel_unshuffle(latents, PATCH).flatten(2).mT


def unpacked(tokens: Float[Tensor, "n tokens channels"], height: int) -> Float[Tensor, "n c h w"]:
    """The inverse of `packed`; `height` in tokens."""
    return pixel_shuffle(tokens.mT.unflatten(2, (height, -1)), PATCH)


def places(height: int, width: int, device: torch.device) -> Float[Tensor, "tokens 3"]:
    """Of image tokens, for the rotary embedding: 0, row, column. Text tokens are all at 0."""
    sides = (torch.arange(side, device=device, dtype=torch.float32) for side in (1, height, width))
    return torch.cartesian_prod(*sides)
