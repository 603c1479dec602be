"""What the latent cache needs of a backbone: its VAE's posterior, and a name for the VAE."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float16, UInt8
from torch import Tensor

from lpobench.plugin import UserError


@runtime_checkable
class Autoencoder(Protocol):
    """A backbone whose latents can be kept."""

    name: str
    latent_space: str

    @property
    def latent_shape(self) -> tuple[int, int, int]: ...

    def image_side(self) -> int:
        """Width and height of images in pixels."""
        ...

    def vae_dtype(self) -> torch.dtype:
        """What the VAE computes in."""
        ...

    def vae_identity(self) -> str:
        """Hash of the VAE's weights, the same in every precision they are run in."""
        ...

    def release_vae(self) -> None:
        """Free the VAE; it is loaded again if it is needed again."""
        ...

    def posterior(
        self, images: Float[Tensor, "n 3 H W"]
    ) -> tuple[Float[Tensor, "n c h w"], Float[Tensor, "n c h w"]]:
        """Mean and log-variance of the scaled latents of images in [0, 1]."""
        ...


def as_autoencoder(backbone: object) -> Autoencoder:
    """The backbone. UserError where it has no VAE whose posterior could be kept."""
    if not isinstance(backbone, Autoencoder):
        raise UserError(f"backbone {getattr(backbone, 'name', backbone)} has no VAE to encode with")
    return backbone


def as_images(pixels: UInt8[np.ndarray, "n H W 3"]) -> Float[Tensor, "n 3 H W"]:
    """8-bit pixels as a backbone takes images: in [0, 1]."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255


@torch.no_grad()
def posterior(
    backbone: Autoencoder, images: Float[Tensor, "n 3 H W"], batch_size: int
) -> tuple[Float16[Tensor, "n c h w"], Float16[Tensor, "n c h w"]]:
    """Mean and log-variance of at most `batch_size` images, rounded as a cache holds them, on the CPU.

    A short batch is filled up: kernels round differently for another batch shape, and an image's latents should
    not depend on how many are encoded with it. Raises UserError for latents that are not finite.
    """
    n = len(images)
    whole = torch.cat([images, images[-1:].expand(max(batch_size - n, 0), -1, -1, -1)])
    mean, logvar = (value[:n].half().cpu() for value in backbone.posterior(whole))
    if not (mean.isfinite().all() and logvar.isfinite().all()):
        raise UserError(
            f"the VAE of {backbone.name} gives latents that are not finite in {backbone.vae_dtype()}; use float32"
        )
    return mean, logvar
