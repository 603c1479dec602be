"""SPM's settings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from lpobench.data.shipped import shipped
from lpobench.plugin import MissingAsset, Names, RewardSettings, Settings, Strategy
from rewards.spm.config import WEIGHTS, SPMConfig, is_released, read_config

if TYPE_CHECKING:
    import torch

    from lpobench.types import Backbone
    from rewards.spm.folder import ClipPlaces
    from rewards.spm.live import StepAwareReward

SHIPPED_WEIGHTS = Path(__file__).parent.parent / "weights"


class SPMTraining(Settings):
    """How an SPM is trained. Published values are quoted; the defaults suit the embedded world."""

    steps: int = Field(2500, ge=1)
    """Optimiser steps (published: 8000 for SD 1.5, 7000 for SDXL)."""
    batch_size: int = Field(32, ge=1)
    """Pairs per step (published: 64)."""
    learning_rate: float = Field(3e-4, gt=0)
    """Peak, after the warm-up (published: 3e-6, SDXL 1e-6)."""
    warmup: int = Field(100, ge=0)
    """Steps of linear warm-up, then linear decay to 0 (published: 500 logarithmic steps, then the same)."""
    weight_decay: float = Field(0.1, ge=0)
    """AdamW weight decay, on every parameter (published: 0.3)."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients are scaled down to this norm (published: 1)."""
    ema_decay: float = Field(0.995, ge=0, lt=1)
    """Weights kept are an exponential moving average; 0 keeps the raw ones, as published."""
    scale: float | None = Field(4.0, gt=0)
    """Where exp(logit_scale) starts. Unset: where the CLIP's is, as published; a CLIP trained to tell captions apart
    is too sure of itself for noisy labels (33 in tiny-clip), and the scale moves slowly."""
    guidance_scale: float = Field(5.0, ge=0)
    """Guidance of the denoiser call behind an estimate (published: 5)."""
    bank: int = Field(4, ge=0)
    """Estimates made beforehand of every image, each at its own t; pairs are looked at through one of them at random.
    0: made anew each time, as published."""
    posterior: Literal["mean", "sample"] = "mean"
    """Latents of the images: the posterior's mean, or, without a bank, a fresh draw each time (published), which
    needs a latent cache or the images; a folder of latents keeps means."""
    mpcf: Strategy = "none"
    """Filter of the training pairs, see lpobench/data/mpcf.py (published: none)."""
    validate_every: int = Field(250, ge=1)
    """Steps between validations; the most accurate weights are kept (published: the last)."""
    validation_pairs: int = Field(500, ge=1)
    """Validation pairs looked at each time, every one at a single timestep."""
    patience: int | None = Field(None, ge=1)
    """Stop after so many validations without a better one; unset trains to the end."""
    half: bool = True
    """Store weights in float16, half the size; the reported accuracy is that of the rounded weights."""

    @model_validator(mode="after")
    def _bank_keeps_means(self) -> Self:
        if self.bank and self.posterior == "sample":
            raise ValueError(f"bank {self.bank} holds posterior means; for posterior sample it should be 0")
        return self


class SPM(RewardSettings):
    """A CLIP told the timestep scores decoded x0 estimates: a denoiser call and a decode for every score."""

    weights: Literal["shipped", "random"] | Path = "shipped"
    """Folder of a trained SPM, or a released file; an asset (spm-15, spm-xl); the one shipped for `backbone`; or
    "random": the published size, a CLIP ViT-H/14, with random weights, for timing."""
    backbone: str = "tiny-sd15"
    """Whose shipped SPM is used; read only while `weights` is "shipped"."""
    clip: str = "tiny-clip"
    """CLIP that training starts from, and that a released file is an SPM of: a folder, an asset (published: pickscore),
    or the shipped one."""
    processor: str | None = None
    """Folder or asset with that CLIP's tokenizer and preprocessing (published: clip-vit-h14); unset: beside `clip`."""
    pairs: Names = ("shapes-pairs",)
    """Preference data to train on: a shipped set, a folder of latents, a latent cache (`lpobench data encode`), or
    pairs with images, as `lpobench data inspect` reads them. Held-out pairs are the first one's."""
    training: SPMTraining = SPMTraining()
    """How it is trained, when it is."""

    @property
    def place(self) -> Path:
        """The folder or the released file. Raises MissingAsset for an asset that is not on this machine."""
        if self.weights == "shipped":
            return SHIPPED_WEIGHTS / f"spm-{self.backbone}"
        return _locate(str(self.weights))

    @property
    def config(self) -> SPMConfig:
        """Its config.json. Raises MissingAsset or UserError where there is no SPM."""
        return read_config(self.place)

    def assets(self) -> dict[str, Path]:
        if self.weights == "random":
            return {}
        place = self.place
        read_config(place)
        if not is_released(place):
            return {"SPM's weights": place / WEIGHTS}
        return {"SPM's weights": place} | self._clip()

    def training_data(self) -> dict[str, Path | str]:
        from lpobench.data.pairs.training import identity_of

        pairs = {f"pairs {number}": identity_of(source) for number, source in enumerate(self.pairs)}
        return pairs | self._clip()

    def load(self, backbone: Backbone, device: torch.device, dtype: torch.dtype) -> StepAwareReward:
        """The live reward. Its towers run in `dtype`; scores are float32."""
        from rewards.lrm.noise import NoiseMap
        from rewards.spm import folder
        from rewards.spm.live import StepAwareReward

        if self.weights == "random":
            from rewards.spm.random_weights import random_spm

            noise = NoiseMap(backbone.schedule, backbone.schedule.prediction == "flow")
            return StepAwareReward(random_spm(backbone, dtype).to(device), noise)
        config, place = self.config, self.place
        model = folder.load(place, self.clip_places() if is_released(place) else None)
        noise = NoiseMap(backbone.schedule, config.is_flow)
        return StepAwareReward(model.to(device).cast_towers(dtype), noise)

    def train(
        self, backbone: Backbone, folder: Path, *, seed: int, device: torch.device, dtype: torch.dtype
    ) -> SPM:
        """Train on `pairs`, from `clip`'s weights, into `folder`. dtype bfloat16: autocast."""
        from rewards.spm.train import train_reward

        train_reward(self, backbone, folder, seed=seed, device=device, dtype=dtype)
        return self.model_copy(update={"weights": folder})

    def measured(self) -> dict[str, list[dict[str, float]]]:
        """Pair accuracy by timestep, against labels and truth."""
        return {} if self.weights == "random" else self.config.accuracy

    def clip_places(self) -> ClipPlaces:
        """Where the CLIP lies. Raises MissingAsset where it is not on this machine."""
        from rewards.spm.folder import ClipPlaces

        found = self._clip()
        return ClipPlaces(found["CLIP"], found.get("CLIP's processor", found["CLIP"]))

    def _clip(self) -> dict[str, Path]:
        """Its folders: one, or two where `processor` names another."""
        places = {"CLIP": self.clip} | (
            {} if self.processor is None else {"CLIP's processor": self.processor}
        )
        found = {word: _locate(name) for word, name in places.items()}
        if absent := next((word for word, path in found.items() if not path.is_dir()), None):
            raise MissingAsset(
                f"no {absent} in {found[absent]}; it should be tiny-clip, a folder, or an asset such as pickscore"
            )
        return found


def _locate(name: str) -> Path:
    """A shipped thing, a place on disk, or an asset. Raises MissingAsset for an asset that is not here."""
    path = shipped(name) or Path(name)
    if path.exists():
        return path
    from lpobench.data import assets

    return assets.locate(name) if name in assets.names() else path
