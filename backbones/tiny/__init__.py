"""Embedded backbones: small latent diffusion models of shapes world, trained for real and shipped with the project."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lpobench.plugin import BackboneSettings

if TYPE_CHECKING:
    import torch

    from lpobench.types import Backbone

SHIPPED = Path(__file__).parent


class TinySD15(BackboneSettings):
    """SD1.5 in small: UNet, epsilon prediction, DDPM schedule, 64 x 64 pixels of shapes world."""

    weights: Path | None = None
    """Pipeline folder to load; unset: the shipped one."""

    @property
    def folder(self) -> Path:
        return self.weights or SHIPPED / "tiny-sd15"

    @property
    def latent_space(self) -> str:
        return "tiny-vae-f8c8"

    def assets(self) -> dict[str, Path]:
        """Files and folders this backbone reads."""
        return {"pipeline": self.folder}

    def load(self, device: torch.device, dtype: torch.dtype) -> Backbone:
        from backbones._diffusers import StableDiffusion

        return StableDiffusion("tiny-sd15", self.folder, self.latent_space, device, dtype)
