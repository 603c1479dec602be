"""What every family of latent diffusion backbones shares: the VAE, the sizes, and where text encoders live."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import diffusers
import torch
from diffusers import AutoencoderKL, DiffusionPipeline
from jaxtyping import Float
from torch import Tensor, nn

from backbones._diffusers.parts import quiet
from backbones._diffusers.sources import Source
from backbones.family import PipelineSettings
from lpobench.launch import memory
from lpobench.plugin import UserError
from lpobench.sampling import Schedule
from lpobench.types import Conditioning

Module = TypeVar("Module", bound=nn.Module)
DECODED_AT_ONCE = 16
"""Images that a CPU decodes at a time, or up to twice as many. The activations of more are too large for its caches
and for memory.keep_freed; with fewer its kernels round differently."""


class LatentDiffusion:
    """A family adds `schedule`, `encode_prompt`, `predict`, and the parts it names in `component` and `encoders`."""

    lora_targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")
    component = "unet"
    """The denoiser's name in the stock pipeline."""
    encoders: tuple[str, ...] = ("text_encoder",)
    """Names of the text encoders, attributes of the backbone."""
    stay_on_cpu: tuple[str, ...] = ()
    """Those that work on the CPU and are never moved."""
    schedule: Schedule

    def __init__(self, settings: PipelineSettings, source: Source, device: torch.device, dtype: torch.dtype):
        self.settings, self.source = settings, source
        self.name, self.latent_space = settings.name, settings.latent_space
        self.device, self.dtype = device, dtype
        if device.type == "cpu":
            memory.keep_freed()
        self._probe: Conditioning | None = None
        self._vae_identity: str | None = None
        self._released = False

    @cached_property
    def vae(self) -> AutoencoderKL:
        """Loaded when it is first used; in float32 where half precision overflows, its config says."""
        vae = self.source.module("vae", AutoencoderKL, torch.float32)
        if self.settings.vae_tiling:
            vae.enable_tiling()
            vae.enable_slicing()
        with quiet():  # a cast makes diffusers warn of layers that want float32, and then names none
            return vae.to(self.device, torch.float32 if vae.config.force_upcast else self.dtype)

    def load_denoiser(self, cls: type[Module]) -> Module:
        """The denoiser, on the device."""
        denoiser = self.source.module(self.component, cls, self.dtype).to(self.device)
        if self.settings.attention_slicing:
            denoiser.set_attention_slice("auto")
        return denoiser

    def load_text_encoder(self, name: str, cls: type[Module]) -> Module:
        """A text encoder, on the device or, to be offloaded, on the CPU."""
        offload = self.settings.text_encoders == "offload"
        return self.source.module(name, cls, self.dtype).to("cpu" if offload else self.device)

    @property
    def denoiser(self) -> nn.Module:
        return getattr(self, self.component)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the latents of the wanted resolution."""
        config, pixels = self.denoiser.config, self.settings.pixels
        side = config.sample_size if pixels is None else pixels // self.pixels_per_latent
        return config.in_channels, side, side

    @property
    def pixels_per_latent(self) -> int:
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    def image_side(self) -> int:
        """Width and height of images in pixels."""
        return self.latent_shape[-1] * self.pixels_per_latent

    @contextmanager
    def encoding(self) -> Iterator[None]:
        """Inside, the text encoders are on the device. Raises UserError when they were released."""
        if self._released:
            raise UserError(
                f"backbone {self.name} has released its text encoders and can encode no new prompt; "
                "set text_encoders to keep or offload"
            )
        names = [name for name in self.encoders if name not in self.stay_on_cpu]
        moved = [getattr(self, name) for name in names if getattr(self, name) is not None]
        moved = moved if self.settings.text_encoders == "offload" else []
        for encoder in moved:
            encoder.to(self.device)
        try:
            yield
        finally:
            for encoder in moved:
                encoder.to("cpu")

    def release_text_encoders(self) -> None:
        """Free the text encoders; from here on `encode_prompt` raises UserError."""
        self.probe()
        for name in self.encoders:
            setattr(self, name, None)
        self._released = True
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def probe(self) -> Conditioning:
        """Two encoded prompts to compare models with; there after a release, too."""
        if self._probe is None:
            self._probe = self.encode_prompt(["", "a"])
        return self._probe

    def encode_prompt(self, prompts: list[str]) -> Conditioning:
        """The family's: one row per prompt, inside `encoding()`."""
        raise AssertionError("a family encodes its prompts")

    def release_vae(self) -> None:
        """Free the VAE; it is loaded again if it is needed again."""
        self.__dict__.pop("vae", None)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def vae_dtype(self) -> torch.dtype:
        """What the VAE computes in."""
        return self.vae.dtype

    def vae_identity(self) -> str:
        """SHA-256 of the VAE's weights in float32 and of how its latents are scaled; loads no VAE onto the device."""
        if self._vae_identity is None:
            loaded = self.__dict__.get("vae")
            exact = loaded is not None and loaded.dtype == torch.float32
            vae = loaded if exact else self.source.module("vae", AutoencoderKL, torch.float32)
            whole = hashlib.sha256(f"{vae.config.scaling_factor} {vae.config.shift_factor or 0.0}".encode())
            for name, value in sorted(vae.state_dict().items()):
                whole.update(f"{name} {tuple(value.shape)}".encode())
                whole.update(value.contiguous().cpu().numpy().data)
            self._vae_identity = whole.hexdigest()
        return self._vae_identity

    @torch.no_grad()
    def posterior(
        self, images: Float[Tensor, "n 3 H W"]
    ) -> tuple[Float[Tensor, "n c h w"], Float[Tensor, "n c h w"]]:
        """Mean and log-variance of latents, shifted and scaled as the VAE's config says, float32."""
        found = self.vae.encode(images.to(self.device, self.vae.dtype) * 2 - 1).latent_dist
        scale = self.vae.config.scaling_factor
        return (found.mean.float() - self._shift) * scale, found.logvar.float() + 2 * math.log(scale)

    def encode(self, images: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n c h w"]:
        """Posterior means, float32."""
        return self.posterior(images)[0]

    def decode(self, latents: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 3 H W"]:
        """Images in [0, 1], float32; differentiable in the latents."""
        parts = max(1, len(latents) // DECODED_AT_ONCE) if self.device.type == "cpu" else 1
        return torch.cat([self._decoded(part) for part in latents.tensor_split(parts)])

    def _decoded(self, latents: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 3 H W"]:
        latents = latents.to(self.device, self.vae.dtype) / self.vae.config.scaling_factor + self._shift
        return (self.vae.decode(latents, return_dict=False)[0].float() / 2 + 0.5).clamp(0, 1)

    @property
    def _shift(self) -> float:
        return self.vae.config.shift_factor or 0.0

    def stock_pipeline(self, **parts) -> DiffusionPipeline:
        """A fresh stock pipeline of the same base weights, on the device; parts given replace its own."""
        cls = getattr(diffusers, self.settings.pipeline)
        return self.source.stock(cls, self.dtype, **parts).to(self.device)

    def export_lora(self, folder: Path) -> None:
        """Write `pytorch_lora_weights.safetensors` with its metadata, load it into a stock pipeline and compare."""
        from backbones._diffusers.export import export_lora

        export_lora(self, folder)

    def export_denoiser(self, folder: Path) -> None:
        """Write the denoiser as `save_pretrained` does, into a folder of its name, load it into a stock pipeline and
        compare.
        """
        from backbones._diffusers.export import export_denoiser

        export_denoiser(self, folder)

    def load_checkpoint(self, path: Path, *, check_only: bool = False) -> str:
        """Put a LoRA or a whole denoiser onto the denoiser in place; what it is, in one line."""
        from backbones._diffusers.checkpoint import load_checkpoint

        return load_checkpoint(self, path, check_only=check_only)
