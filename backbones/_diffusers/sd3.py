"""Live Stable Diffusion 3 and 3.5, and their embedded sibling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from diffusers import SD3Transformer2DModel
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad
from transformers import CLIPTextModelWithProjection, CLIPTokenizer, T5Tokenizer

from backbones._diffusers.base import LatentDiffusion
from backbones._diffusers.sources import Source
from backbones._diffusers.text import encode_t5, load_t5, token_ids
from lpobench.plugin import UserError
from lpobench.sampling import RectifiedFlow
from lpobench.types import Conditioning

if TYPE_CHECKING:
    from backbones.sd3 import SD3Medium


@dataclass(frozen=True)
class SD3Conditioning(Conditioning):
    """What the transformer's text stream starts from, and what joins its timestep."""

    prompt_embeds: Float[Tensor, "n tokens width"]
    """Both CLIP encoders' last hidden states but one, side by side, then T5's tokens or zeros."""
    pooled: Float[Tensor, "n pooled"]
    """Both CLIP encoders' projected embeddings of the whole text, side by side."""


class StableDiffusion3(LatentDiffusion):
    """Two CLIP text encoders and perhaps T5, a multimodal transformer, a VAE, a rectified flow."""

    component = "transformer"
    encoders = ("text_encoder", "text_encoder_2", "text_encoder_3")
    lora_targets = (
        "to_q",
        "to_k",
        "to_v",
        "to_out.0",
        "add_q_proj",
        "add_k_proj",
        "add_v_proj",
        "to_add_out",
    )

    def __init__(self, settings: SD3Medium, source: Source, device: torch.device, dtype: torch.dtype):
        if settings.t5 != "off" and not source.has("text_encoder_3"):
            raise UserError(f"the weights of {settings.name} hold no T5; set backbone.t5 to off")
        super().__init__(settings, source, device, dtype)
        self.schedule = RectifiedFlow.from_scheduler_config(source.scheduler_config())
        self.t5_tokens = settings.t5_tokens
        self.tokenizer = source.tokenizer("tokenizer", CLIPTokenizer)
        self.tokenizer_2 = source.tokenizer("tokenizer_2", CLIPTokenizer)
        self.text_encoder = self.load_text_encoder("text_encoder", CLIPTextModelWithProjection)
        self.text_encoder_2 = self.load_text_encoder("text_encoder_2", CLIPTextModelWithProjection)
        self.tokenizer_3, self.text_encoder_3 = None, None
        if settings.t5 != "off":
            self.tokenizer_3 = source.tokenizer("tokenizer_3", T5Tokenizer)
            self.text_encoder_3 = load_t5(self, "text_encoder_3", settings.t5)
        self.transformer = self.load_denoiser(SD3Transformer2DModel)
        self._check_resolution()

    def _check_resolution(self) -> None:
        config = self.transformer.config
        largest = config.pos_embed_max_size * config.patch_size * self.pixels_per_latent
        if (self.settings.resolution or 0) > largest:
            raise UserError(
                f"resolution {self.settings.resolution} is more than the positions {self.name} knows: {largest} at most"
            )

    @torch.no_grad()
    def encode_prompt(self, prompts: list[str]) -> SD3Conditioning:
        """One row per prompt; the negative prompt of SD3 is "", encoded."""
        with self.encoding():
            clips = [
                self._encode_clip(self.tokenizer, self.text_encoder, prompts),
                self._encode_clip(self.tokenizer_2, self.text_encoder_2, prompts),
            ]
            t5 = self._encode_t5(prompts)
        text = torch.cat([clip.hidden_states[-2] for clip in clips], -1)
        text = pad(text, (0, t5.shape[-1] - text.shape[-1]))
        return SD3Conditioning(torch.cat([text, t5], 1), torch.cat([clip.text_embeds for clip in clips], -1))

    def _encode_clip(
        self, tokenizer: CLIPTokenizer, encoder: CLIPTextModelWithProjection, prompts: list[str]
    ):
        ids = token_ids(tokenizer, prompts, self.tokenizer.model_max_length)
        return encoder(ids.to(self.device), output_hidden_states=True)

    def _encode_t5(self, prompts: list[str]) -> Float[Tensor, "n tokens width"]:
        if self.text_encoder_3 is None:
            width = self.transformer.config.joint_attention_dim
            return torch.zeros((len(prompts), self.t5_tokens, width), device=self.device, dtype=self.dtype)
        ids = token_ids(self.tokenizer_3, prompts, self.t5_tokens)
        return encode_t5(self, self.text_encoder_3, ids)

    def predict(
        self, latents: Float[Tensor, "n c h w"], t: Float[Tensor, " n"], conditioning: SD3Conditioning
    ) -> Float[Tensor, "n c h w"]:
        """The transformer's raw output, the flow's velocity."""
        return self.transformer(
            latents.to(self.dtype), conditioning.prompt_embeds, conditioning.pooled, t, return_dict=False
        )[0]
