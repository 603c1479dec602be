"""LRM's settings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from lpobench.plugin import Names, RewardSettings, Settings, Strategy, UserError
from rewards.lrm.config import PUBLISHED_VFE_SCALE, LRMConfig, read_config, weight_files

if TYPE_CHECKING:
    import torch

    from lpobench.types import Backbone
    from rewards.lrm.live import LatentReward

ROOT = Path(__file__).parent.parent
SHIPPED_WEIGHTS = ROOT / "weights"


class LRMTraining(Settings):
    """How an LRM is trained. Published values are quoted; the defaults suit the embedded world."""

    steps: int = Field(1500, ge=1)
    """Optimiser steps (published: 4000 for SD 1.5, 8000 for SDXL)."""
    batch_size: int = Field(64, ge=1)
    """Pairs per step (published: 128, SDXL 32)."""
    learning_rate: float = Field(5e-4, gt=0)
    """Peak, after the warm-up (published: 1e-5)."""
    warmup: int = Field(100, ge=0)
    """Steps of linear warm-up, then linear decay to 0 (published: 500 logarithmic steps, then the same)."""
    weight_decay: float = Field(0.1, ge=0)
    """AdamW weight decay, on every parameter (published: 0.3)."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients are scaled down to this norm (published: 1)."""
    ema_decay: float = Field(0.995, ge=0, lt=1)
    """Weights kept are an exponential moving average; 0 keeps the raw ones, as published."""
    layer: int | None = Field(None, ge=1)
    """MMDiT only: the block whose features are read, counted from 1; unset: three quarters of the way, as
    published for SD3 (18 of 24)."""
    posterior: Literal["mean", "sample"] = "mean"
    """Latents of the images: the posterior's mean, or a fresh draw each time (published), which needs a latent
    cache or the images; a folder of latents keeps means."""
    mpcf: Strategy = "none"
    """Filter of the training pairs, see lpobench/data/mpcf.py (published: 2)."""
    validate_every: int = Field(200, ge=1)
    """Steps between validations; the most accurate weights are kept (published: the last)."""
    validation_pairs: int = Field(1000, ge=1)
    """Validation pairs looked at each time, every one at a single timestep."""
    patience: int | None = Field(None, ge=1)
    """Stop after so many validations without a better one; unset trains to the end."""
    half: bool = True
    """Store weights in float16, half the size; the reported accuracy is that of the rounded weights."""


class LRM(RewardSettings):
    """The diffusion model's own down and mid blocks score noisy latents: no decoding, no denoising step."""

    weights: Literal["shipped", "random"] | Path = "shipped"
    """Folder of a trained LRM, ours or in the released layout; an asset (lrm-15, lrm-xl); the one shipped for
    `backbone`; or "random": untrained, made of the run's own backbone, for timing."""
    backbone: str = "tiny-sd15"
    """Whose shipped LRM is used; read only while `weights` is "shipped"."""
    vfe_scale: float | None = None
    """Visual feature enhancement: guidance on the mid feature, 1 is off; unset: as the LRM was trained."""
    pairs: Names = ("shapes-pairs",)
    """Preference data to train on: a shipped set, a folder of latents, a latent cache (`lpobench data encode`), or
    pairs with images, as `lpobench data inspect` reads them. Held-out pairs are the first one's."""
    training: LRMTraining = LRMTraining()
    """How it is trained, when it is."""

    @property
    def folder(self) -> Path:
        """Where it lies. Raises MissingAsset for an asset that is not on this machine."""
        if self.weights == "shipped":
            return SHIPPED_WEIGHTS / f"lrm-{self.backbone}"
        from lpobench.data import assets

        is_asset = not self.weights.exists() and str(self.weights) in assets.names()
        return assets.locate(str(self.weights)) if is_asset else self.weights

    @property
    def config(self) -> LRMConfig:
        """The folder's config.json. Raises UserError when the folder is not an LRM."""
        return read_config(self.folder)

    @property
    def latent_space(self) -> str | None:
        """None, which is any, where it is made of the run's backbone."""
        return None if self.weights == "random" else self.config.latent_space

    def assets(self) -> dict[str, Path]:
        if self.weights == "random":
            return {}
        folder = self.folder
        return {f"LRM's {part}": path for part, path in weight_files(folder, read_config(folder)).items()}

    def training_data(self) -> dict[str, Path | str]:
        from lpobench.data.pairs.training import identity_of

        return {f"pairs {number}": identity_of(source) for number, source in enumerate(self.pairs)}

    def load(self, backbone: Backbone, device: torch.device, dtype: torch.dtype) -> LatentReward:
        """The live reward. Its blocks run in `dtype`; projections and scores stay float32."""
        if self.weights == "random":
            return self._untrained(backbone, device, dtype)
        reads, makes = self.latent_space, backbone.latent_space
        if reads != makes:
            raise UserError(f"reward lrm reads latents of {reads}, backbone {backbone.name} makes {makes}")
        from rewards.lrm import folder
        from rewards.lrm.live import LatentReward
        from rewards.lrm.noise import NoiseMap

        model = folder.load(self.folder, self.vfe_scale, backbone).to(device)
        noise = NoiseMap(backbone.schedule, self.config.is_mmdit)
        return LatentReward(model.cast_blocks(dtype), reads, noise)

    def _untrained(self, backbone: Backbone, device: torch.device, dtype: torch.dtype) -> LatentReward:
        """As its training would begin: the backbone's blocks, random projections."""
        from rewards.lrm.live import LatentReward
        from rewards.lrm.noise import NoiseMap
        from rewards.lrm.train import new_model

        vfe_scale = PUBLISHED_VFE_SCALE if self.vfe_scale is None else self.vfe_scale
        model = new_model(backbone, vfe_scale, 0, self.training.layer).cast_blocks(dtype).to(device)
        return LatentReward(model, backbone.latent_space, NoiseMap(backbone.schedule, model.is_mmdit))

    def train(
        self, backbone: Backbone, folder: Path, *, seed: int, device: torch.device, dtype: torch.dtype
    ) -> LRM:
        """Train on `pairs`, from the backbone's weights, into `folder`. dtype bfloat16: autocast."""
        from rewards.lrm.train import train_reward

        train_reward(self, backbone, folder, seed=seed, device=device, dtype=dtype)
        return self.model_copy(update={"weights": folder})

    def measured(self) -> dict[str, list[dict[str, float]]]:
        """Pair accuracy by timestep, against labels and truth."""
        return {} if self.weights == "random" else self.config.accuracy
