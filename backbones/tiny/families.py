"""The three embedded families as they are trained: text encoders and denoiser under one name, and their stock pipeline.

SD1.5 drops a caption by encoding ""; SDXL by zeroing what its encoders give, as its base model's config says.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import StableDiffusion3Pipeline, StableDiffusionPipeline, StableDiffusionXLPipeline
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from backbones.tiny import models
from lpobench.sampling import RectifiedFlow, VariancePreserving


class SD15(nn.Module):
    """One text encoder, cross attention."""

    def __init__(self, tokenizer: CLIPTokenizer):
        super().__init__()
        self.text_encoder = models.text_encoder(tokenizer)
        self.unet = models.unet().to(memory_format=torch.channels_last)
        self.scheduler = models.ddim_scheduler()

    def forward(self, latents: Tensor, t: Tensor, ids: Tensor, empty: Tensor, dropped: Tensor) -> Tensor:
        text = self.text_encoder(torch.where(dropped[:, None], empty, ids)).last_hidden_state
        return self.unet(latents.contiguous(memory_format=torch.channels_last), t, text).sample

    def schedule(self) -> VariancePreserving:
        return VariancePreserving.from_scheduler_config(self.scheduler.config)

    def pipeline(self, vae, tokenizer: CLIPTokenizer) -> StableDiffusionPipeline:
        return StableDiffusionPipeline(
            vae=vae,
            text_encoder=self.text_encoder,
            tokenizer=tokenizer,
            unet=self.unet,
            scheduler=self.scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )


class SDXL(nn.Module):
    """Two text encoders, read before their last layer; the pooled text and the picture's size join the timestep."""

    def __init__(self, tokenizer: CLIPTokenizer):
        super().__init__()
        self.text_encoder = models.text_encoder(tokenizer, width=64)
        self.text_encoder_2 = models.projected_text_encoder(tokenizer, width=128)
        self.unet = models.unet_xl().to(memory_format=torch.channels_last)
        self.scheduler = models.ddim_scheduler()
        unread = self.text_encoder.encoder.layers[-1], self.text_encoder.final_layer_norm
        nn.ModuleList(unread).requires_grad_(False)

    def forward(self, latents: Tensor, t: Tensor, ids: Tensor, empty: Tensor, dropped: Tensor) -> Tensor:
        first = self.text_encoder(ids, output_hidden_states=True).hidden_states[-2]
        second = self.text_encoder_2(ids, output_hidden_states=True)
        kept = (~dropped)[:, None].to(latents.dtype)
        text = torch.cat([first, second.hidden_states[-2]], -1) * kept[..., None]
        side = 8 * latents.shape[-1]
        sizes = torch.tensor([[side, side, 0, 0, side, side]], dtype=latents.dtype, device=latents.device)
        added = {"text_embeds": second.text_embeds * kept, "time_ids": sizes.expand(len(latents), -1)}
        latents = latents.contiguous(memory_format=torch.channels_last)
        return self.unet(latents, t, text, added_cond_kwargs=added).sample

    def schedule(self) -> VariancePreserving:
        return VariancePreserving.from_scheduler_config(self.scheduler.config)

    def pipeline(self, vae, tokenizer: CLIPTokenizer) -> StableDiffusionXLPipeline:
        return StableDiffusionXLPipeline(
            vae=vae,
            text_encoder=self.text_encoder,
            text_encoder_2=self.text_encoder_2,
            tokenizer=tokenizer,
            tokenizer_2=tokenizer,
            unet=self.unet,
            scheduler=self.scheduler,
            force_zeros_for_empty_prompt=True,
            add_watermarker=False,
        )


class SD3(nn.Module):
    """A multimodal transformer and flow matching; two CLIP encoders, and zero tokens in the place of T5's.

    As SD3's, the encoders are trained elsewhere and frozen: tiny-sdxl's, which learnt the words with a UNet.
    """

    def __init__(self, tokenizer: CLIPTokenizer):
        super().__init__()
        self.text_encoder = models.projected_text_encoder(tokenizer, width=64)
        self.text_encoder_2 = models.projected_text_encoder(tokenizer, width=128)
        nn.ModuleList((self.text_encoder, self.text_encoder_2)).requires_grad_(False)
        self.transformer = models.transformer()
        self.scheduler = models.flow_scheduler()

    def take_text_encoders(self, folder: Path) -> None:
        """Tiny-sdxl's; the first one there has no projection, which stays as it was drawn."""
        first = CLIPTextModel.from_pretrained(folder / "text_encoder").state_dict()
        self.text_encoder.text_model.load_state_dict(first)
        second = CLIPTextModelWithProjection.from_pretrained(folder / "text_encoder_2").state_dict()
        self.text_encoder_2.load_state_dict(second)

    def forward(self, latents: Tensor, t: Tensor, ids: Tensor, empty: Tensor, dropped: Tensor) -> Tensor:
        ids = torch.where(dropped[:, None], empty, ids)
        with torch.no_grad():
            encoded = [
                encoder(ids, output_hidden_states=True)
                for encoder in (self.text_encoder, self.text_encoder_2)
            ]
        text = torch.cat([one.hidden_states[-2] for one in encoded], -1)
        text = nn.functional.pad(text, (0, models.JOINT_WIDTH - text.shape[-1], 0, models.T5_TOKENS))
        pooled = torch.cat([one.text_embeds for one in encoded], -1)
        return self.transformer(latents, text, pooled, t).sample

    def schedule(self) -> RectifiedFlow:
        return RectifiedFlow(self.scheduler.config.shift)

    def pipeline(self, vae, tokenizer: CLIPTokenizer) -> StableDiffusion3Pipeline:
        return StableDiffusion3Pipeline(
            vae=vae,
            text_encoder=self.text_encoder,
            text_encoder_2=self.text_encoder_2,
            text_encoder_3=None,
            tokenizer=tokenizer,
            tokenizer_2=tokenizer,
            tokenizer_3=None,
            transformer=self.transformer,
            scheduler=self.scheduler,
        )


FAMILIES: dict[str, Callable[[CLIPTokenizer], nn.Module]] = {
    "tiny-sd15": SD15,
    "tiny-sdxl": SDXL,
    "tiny-sd3": SD3,
}
