"""Live Stable Diffusion backbones from a stock pipeline folder, in diffusers' own classes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from lpobench.plugin import MissingAsset, UserError
from lpobench.sampling import VariancePreserving
from lpobench.types import Conditioning

Part = TypeVar("Part")


@dataclass(frozen=True)
class TextConditioning(Conditioning):
    """The text encoder's last hidden states, what the UNet attends to."""

    prompt_embeds: Float[Tensor, "n tokens width"]


class StableDiffusion:
    """SD1.x, SD2.x and their embedded sibling: one CLIP text encoder, a UNet, a VAE, a DDPM schedule."""

    lora_targets = ("to_q", "to_k", "to_v", "to_out.0")

    def __init__(self, name: str, folder: Path, latent_space: str, device: torch.device, dtype: torch.dtype):
        self.name, self.folder, self.latent_space = name, folder, latent_space
        self.device, self.dtype = device, dtype
        self.tokenizer = load_part(CLIPTokenizer.from_pretrained, folder / "tokenizer")
        self.text_encoder = self._load(CLIPTextModel, "text_encoder")
        self.unet = self._load(UNet2DConditionModel, "unet")
        self.unet.to(memory_format=torch.channels_last)
        self.vae = self._load(AutoencoderKL, "vae")
        config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
        self.schedule = VariancePreserving.from_scheduler_config(config)
        side = self.unet.config.sample_size
        self.latent_shape = (self.unet.config.in_channels, side, side)

    def _load(self, cls, name: str):
        part = load_part(cls.from_pretrained, self.folder / name, dtype=self.dtype, use_safetensors=True)
        return part.to(self.device).eval().requires_grad_(False)

    @property
    def denoiser(self) -> UNet2DConditionModel:
        return self.unet

    @torch.no_grad()
    def encode_prompt(self, prompts: list[str]) -> TextConditioning:
        """One row per prompt, cut at the tokenizer's length; the negative prompt of SD1.x and SD2.x is ""."""
        length = self.tokenizer.model_max_length
        tokens = self.tokenizer(
            prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        )
        return TextConditioning(self.text_encoder(tokens.input_ids.to(self.device)).last_hidden_state)

    def predict(
        self, latents: Float[Tensor, "n c h w"], t: Float[Tensor, " n"], conditioning: TextConditioning
    ) -> Float[Tensor, "n c h w"]:
        """The UNet's raw output."""
        latents = latents.to(self.dtype, memory_format=torch.channels_last)
        return self.unet(latents, t, conditioning.prompt_embeds, return_dict=False)[0]

    @torch.no_grad()
    def encode(self, images: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n c h w"]:
        """Posterior means times the VAE's scaling factor, float32."""
        posterior = self.vae.encode(images.to(self.device, self.dtype) * 2 - 1).latent_dist
        return posterior.mode().float() * self.vae.config.scaling_factor

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 3 H W"]:
        """Images in [0, 1], float32."""
        decoded = self.vae.decode(latents.to(self.dtype) / self.vae.config.scaling_factor, return_dict=False)[
            0
        ]
        return (decoded.float() / 2 + 0.5).clamp(0, 1)

    @torch.no_grad()
    def export_lora(self, folder: Path) -> None:
        """Write `pytorch_lora_weights.safetensors` with its metadata, load it into a stock pipeline and compare."""
        from diffusers import StableDiffusionPipeline
        from diffusers.training_utils import _collate_lora_metadata
        from diffusers.utils import convert_state_dict_to_diffusers
        from peft.utils import get_peft_model_state_dict

        layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(self.unet))
        metadata = _collate_lora_metadata({"unet": self.unet})
        StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=layers, **metadata)

        with _quiet():
            stock = StableDiffusionPipeline.from_pretrained(
                self.folder, dtype=self.dtype, use_safetensors=True, safety_checker=None
            ).to(self.device)
            stock.load_lora_weights(folder)
        generator = torch.Generator().manual_seed(0)
        latents = torch.randn((2, *self.latent_shape), generator=generator).to(self.device)
        t = torch.tensor([51.0, 951.0], device=self.device)
        text = self.encode_prompt(["", "a"])
        ours = self.predict(latents, t, text).float()
        theirs = stock.unet(latents.to(self.dtype), t, text.prompt_embeds, return_dict=False)[0].float()
        worst, allowed = (ours - theirs).abs().max().item(), 1e-4 if self.dtype == torch.float32 else 2e-2
        if not worst <= allowed:
            raise RuntimeError(
                f"the exported LoRA differs from the trained policy by {worst:.2g} in a stock pipeline"
            )


def load_part(load: Callable[..., Part], folder: Path, **options) -> Part:
    """`from_pretrained` on a local folder, its failures told in one line."""
    if not folder.is_dir():
        raise MissingAsset(f"no such model folder: {folder}; give a diffusers pipeline folder that holds it")
    pickles = [*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.ckpt")]
    if pickles and not any(folder.glob("*.safetensors")):
        raise UserError(f"{pickles[0]} is a pickle and is not read; convert it to safetensors")
    try:
        with _quiet():
            return load(folder, local_files_only=True, **options)
    except (SafetensorError, OSError, KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"cannot read the weights in {folder}: {reason}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """No bars for a few local files, and no word on a text encoder that has, rightly, no LoRA."""
    libraries = (diffusers_logging, transformers_logging)
    levels = [library.get_verbosity() for library in libraries]
    for library in libraries:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library, level in zip(libraries, levels, strict=True):
            library.set_verbosity(level)
            library.enable_progress_bar()
