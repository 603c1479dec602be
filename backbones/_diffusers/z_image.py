"""Live Z-Image. Its transformer's clock runs the other way, and so does its output: x0 - eps at 1 - t / 1000."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from diffusers import ZImageTransformer2DModel
from jaxtyping import Float
from torch import Tensor, nn
from transformers import Qwen2Tokenizer, Qwen3Model

from backbones._diffusers.base import LatentDiffusion
from backbones._diffusers.sources import Source
from backbones._diffusers.text import tokenized
from lpobench.sampling import RectifiedFlow
from lpobench.types import Conditioning

if TYPE_CHECKING:
    from backbones.z_image import ZImage


@dataclass(frozen=True)
class ZImageConditioning(Conditioning):
    """The text tokens that join the image's."""

    prompt_embeds: Float[Tensor, "n tokens width"]
    """Qwen3's last hidden states but one, then zeros."""
    lengths: Float[Tensor, " n"]
    """Tokens that are no such zeros."""

    @cached_property
    def texts(self) -> list[Float[Tensor, "_ width"]]:
        """As the transformer takes them. Reads the device, once."""
        return [
            row[: int(length)] for row, length in zip(self.prompt_embeds, self.lengths.tolist(), strict=True)
        ]


class ZImageLive(LatentDiffusion):
    """Qwen3, a transformer over one stream of tokens, FLUX.1's VAE, a rectified flow.

    Classifier-free guidance g is the stock pipeline's guidance_scale g - 1; its cfg_normalization is not made here.
    """

    component = "transformer"

    def __init__(self, settings: ZImage, source: Source, device: torch.device, dtype: torch.dtype):
        super().__init__(settings, source, device, dtype)
        self.schedule = RectifiedFlow.from_scheduler_config(source.scheduler_config(), settings.image_tokens)
        self.text_tokens = settings.text_tokens
        self.tokenizer = source.tokenizer("tokenizer", Qwen2Tokenizer)
        self.text_encoder = _without_last_layer(self.load_text_encoder("text_encoder", Qwen3Model))
        self.transformer = self.load_denoiser(ZImageTransformer2DModel)

    @torch.no_grad()
    def encode_prompt(self, prompts: list[str]) -> ZImageConditioning:
        """One row per prompt, each as what a user says in a chat; "" is encoded like any other."""
        tokens = tokenized(self.tokenizer, [self._chat(prompt) for prompt in prompts], self.text_tokens)
        ids, mask = tokens.input_ids.to(self.device), tokens.attention_mask.to(self.device)
        with self.encoding():
            states = self.text_encoder(ids, attention_mask=mask).last_hidden_state
        text_first = mask.argsort(dim=1, descending=True, stable=True)  # on whichever side the padding is
        kept = states * mask[..., None].to(states)
        return ZImageConditioning(kept.take_along_dim(text_first[..., None], 1), mask.sum(1).float())

    def _chat(self, prompt: str) -> str:
        said = [{"role": "user", "content": prompt}]
        options = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": True}
        return self.tokenizer.apply_chat_template(said, **options)

    def predict(
        self, latents: Float[Tensor, "n c h w"], t: Float[Tensor, " n"], conditioning: ZImageConditioning
    ) -> Float[Tensor, "n c h w"]:
        """The transformer's raw output with its sign turned: the flow's velocity."""
        frames = list(latents.to(self.dtype).unsqueeze(2))
        output = self.transformer(frames, 1 - t / 1000, conditioning.texts, return_dict=False)[0]
        return -torch.stack(output).squeeze(2)


def _without_last_layer(encoder: Qwen3Model) -> Qwen3Model:
    """Its last hidden states are then the last but one, and the others need not be kept."""
    encoder.layers, encoder.norm = encoder.layers[:-1], nn.Identity()
    return encoder
