"""Embedded backbones: small latent diffusion models of shapes world, trained for real and shipped with the project.

The families' own settings and code; only the folder differs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from backbones.family import Place
from backbones.sd import SD15
from backbones.sd3 import SD3Medium
from backbones.sdxl import SDXL

SHIPPED = Path(__file__).parent


class TinySD15(SD15):
    """SD1.5 in small: UNet, epsilon prediction, DDPM schedule, 64 x 64 pixels of shapes world."""

    name: ClassVar[str] = "tiny-sd15"
    space: ClassVar[str] = "tiny-vae-f8c8"
    shipped: ClassVar[Path | None] = SHIPPED / "tiny-sd15"
    architecture: ClassVar[str | None] = None


class TinySDXL(SDXL):
    """SDXL in small: two text encoders, a UNet told the picture's size, 64 x 64 pixels of shapes world."""

    name: ClassVar[str] = "tiny-sdxl"
    space: ClassVar[str] = "tiny-vae-f8c8"
    shipped: ClassVar[Path | None] = SHIPPED / "tiny-sdxl"
    architecture: ClassVar[str | None] = None

    vae: Place | None = None
    """VAE in place of the pipeline's own: a folder, an asset's name or a downloaded hub id"""


class TinySD3(SD3Medium):
    """SD3 in small: a multimodal transformer, flow matching, no T5, 64 x 64 pixels of shapes world."""

    name: ClassVar[str] = "tiny-sd3"
    space: ClassVar[str] = "tiny-vae-f8c8"
    shipped: ClassVar[Path | None] = SHIPPED / "tiny-sd3"
    architecture: ClassVar[str | None] = None

    t5: Literal["off", "cpu", "device"] = "off"
    """the T5 text encoder: off, zeros in its place; the model has none"""
    t5_tokens: Annotated[int, Field(ge=1, le=512)] = 4
    """zeros in the place of T5's text tokens; 4 in its own training"""
