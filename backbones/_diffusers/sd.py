"""Live Stable Diffusion 1.x and 2.x, and their embedded sibling."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import UNet2DConditionModel
from jaxtyping import Float
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from backbones._diffusers.base import LatentDiffusion
from backbones._diffusers.sources import Source
from backbones._diffusers.text import token_ids
from backbones.family import PipelineSettings
from lpobench.sampling import VariancePreserving
from lpobench.sampling.once import Once, SharesHalves, before_text
from lpobench.types import Conditioning


@dataclass(frozen=True)
class TextConditioning(Conditioning):
    """The text encoder's last hidden states, what the UNet attends to."""

    prompt_embeds: Float[Tensor, "n tokens width"]


class StableDiffusion(LatentDiffusion, SharesHalves):
    """One CLIP text encoder, a UNet, a VAE, a DDPM schedule."""

    def __init__(self, settings: PipelineSettings, source: Source, device: torch.device, dtype: torch.dtype):
        super().__init__(settings, source, device, dtype)
        self.tokenizer = source.tokenizer("tokenizer", CLIPTokenizer)
        self.text_encoder = self.load_text_encoder("text_encoder", CLIPTextModel)
        self.unet = self.load_denoiser(UNet2DConditionModel).to(memory_format=torch.channels_last)
        self.once = Once(before_text(self.unet))
        self.schedule = VariancePreserving.from_scheduler_config(source.scheduler_config())

    @torch.no_grad()
    def encode_prompt(self, prompts: list[str]) -> TextConditioning:
        """One row per prompt, cut at the tokenizer's length; the negative prompt of SD1.x and SD2.x is ""."""
        with self.encoding():
            ids = token_ids(self.tokenizer, prompts, self.tokenizer.model_max_length)
            return TextConditioning(self.text_encoder(ids.to(self.device)).last_hidden_state)

    def predict(
        self, latents: Float[Tensor, "n c h w"], t: Float[Tensor, " n"], conditioning: TextConditioning
    ) -> Float[Tensor, "n c h w"]:
        """The UNet's raw output."""
        latents = latents.to(self.dtype, memory_format=torch.channels_last)
        return self.unet(latents, t, conditioning.prompt_embeds, return_dict=False)[0]
