"""Live Stable Diffusion XL and its embedded sibling."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import UNet2DConditionModel
from jaxtyping import Float
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from backbones._diffusers.base import LatentDiffusion
from backbones._diffusers.sources import Source
from backbones._diffusers.text import token_ids
from backbones.family import PipelineSettings
from lpobench.sampling import VariancePreserving
from lpobench.types import Conditioning


@dataclass(frozen=True)
class SDXLConditioning(Conditioning):
    """What the UNet attends to, and what joins its timestep."""

    prompt_embeds: Float[Tensor, "n tokens width"]
    """Both encoders' last hidden states but one, side by side."""
    pooled: Float[Tensor, "n pooled"]
    """The second encoder's projected embedding of the whole text."""
    time_ids: Float[Tensor, "n 6"]
    """Original size, crop's corner, wanted size: (H, W, 0, 0, H, W), pixels."""


class StableDiffusionXL(LatentDiffusion):
    """Two CLIP text encoders, a UNet, a VAE, a DDPM schedule."""

    encoders = ("text_encoder", "text_encoder_2")

    def __init__(self, settings: PipelineSettings, source: Source, device: torch.device, dtype: torch.dtype):
        super().__init__(settings, source, device, dtype)
        self.schedule = VariancePreserving.from_scheduler_config(source.scheduler_config())
        self.zeros_for_empty = bool(source.index().get("force_zeros_for_empty_prompt", True))
        self.tokenizer = source.tokenizer("tokenizer", CLIPTokenizer)
        self.tokenizer_2 = source.tokenizer("tokenizer_2", CLIPTokenizer)
        self.text_encoder = self.load_text_encoder("text_encoder", CLIPTextModel)
        self.text_encoder_2 = self.load_text_encoder("text_encoder_2", CLIPTextModelWithProjection)
        self.unet = self.load_denoiser(UNet2DConditionModel).to(memory_format=torch.channels_last)

    @torch.no_grad()
    def encode_prompt(self, prompts: list[str]) -> SDXLConditioning:
        """One row per prompt; "" is all zeros where the pipeline's config says so, as the base model's does."""
        with self.encoding():
            first = self._encode(self.tokenizer, self.text_encoder, prompts)
            second = self._encode(self.tokenizer_2, self.text_encoder_2, prompts)
        kept = torch.tensor(
            [bool(prompt) or not self.zeros_for_empty for prompt in prompts], device=self.device
        )
        text = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], -1)
        _, height, width = (size * self.pixels_per_latent for size in self.latent_shape)
        sizes = torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float32, device=self.device)
        return SDXLConditioning(
            text * kept[:, None, None], second.text_embeds * kept[:, None], sizes.repeat(len(prompts), 1)
        )

    def _encode(self, tokenizer: CLIPTokenizer, encoder: CLIPTextModel, prompts: list[str]):
        ids = token_ids(tokenizer, prompts, tokenizer.model_max_length)
        return encoder(ids.to(self.device), output_hidden_states=True)

    def predict(
        self, latents: Float[Tensor, "n c h w"], t: Float[Tensor, " n"], conditioning: SDXLConditioning
    ) -> Float[Tensor, "n c h w"]:
        """The UNet's raw output."""
        latents = latents.to(self.dtype, memory_format=torch.channels_last)
        added = {"text_embeds": conditioning.pooled, "time_ids": conditioning.time_ids}
        return self.unet(latents, t, conditioning.prompt_embeds, added_cond_kwargs=added, return_dict=False)[
            0
        ]
