"""DiNa-LRM's settings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from lpobench.plugin import Names, RewardSettings, Settings, Strategy
from rewards.dina.config import DiNaConfig, read_config, weight_files

if TYPE_CHECKING:
    import torch

    from lpobench.types import Backbone
    from rewards.dina.live import DiNaReward
    from rewards.dina.model import DiNaModel

SHIPPED_WEIGHTS = Path(__file__).parent.parent / "weights"

Taps = tuple[int, ...]
Level = Annotated[float, Field(ge=0, le=1)]


class DiNaTraining(Settings):
    """How a DiNa-LRM is trained. Published values are quoted; the defaults suit the embedded world."""

    steps: int = Field(1500, ge=1)
    """Optimiser steps (published: one epoch of 0.8 million pairs)."""
    batch_size: int = Field(64, ge=1)
    """Pairs per step, of all processes (published: 4 for each of 8 or 16 GPUs)."""
    learning_rate: float = Field(5e-4, gt=0)
    """Peak, after the warm-up (published: 5e-5)."""
    warmup: int = Field(100, ge=0)
    """Steps of linear warm-up, then linear decay to 0 (published: 1000 and no decay; its code skips the warm-up)."""
    weight_decay: float = Field(0.01, ge=0)
    """AdamW weight decay (published: 0.01)."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients are scaled down to this norm (published: 1)."""
    ema_decay: float = Field(0.995, ge=0, lt=1)
    """Weights kept are an exponential moving average (published: 0.995 in its config, off in its code); 0 is off."""
    loss: Literal["thurstone", "thurstone-constant", "bt", "bt-margin"] = "thurstone"
    """What a pair costs: fidelity to a Thurstone comparison whose variance grows with the noise (published), or does
    not; or Bradley-Terry, plain or with a margin of 1."""
    layers: int | None = Field(None, ge=1)
    """Blocks of the transformer that are kept; unset: half (published: 12 of 24)."""
    visual_taps: Taps | None = None
    """Blocks whose visual tokens are read, counted from 1, 0 is the patches; unset: each third of `layers`
    (published: 4, 8, 12)."""
    text_taps: Taps | None = None
    """The same of the text tokens."""
    rank: int = Field(16, ge=1)
    """Of the adapter rm_lora (published: 64)."""
    alpha: int | None = Field(None, ge=1)
    """Scale of the adapter times its rank; unset: twice the rank (published: 128)."""
    width: int | None = Field(None, ge=4)
    """Of the head; unset: the transformer's, as published."""
    num_queries: int = Field(4, ge=1)
    """Learned queries of the head, whose scores are averaged (published: 4)."""
    num_heads: int = Field(8, ge=1)
    """Attention heads of the head (published: 8)."""
    logistic: bool = False
    """Train through a logistic that bounds scores to (-2, 2), its slope and centre along (published: off)."""
    checkpointing: bool = False
    """Compute a block's forward pass again on the way back instead of keeping it: less memory, a third slower."""
    posterior: Literal["mean", "sample"] = "mean"
    """Latents of the images: the posterior's mean, or a fresh draw each time, which needs a latent cache or the
    images."""
    mpcf: Strategy = "none"
    """Filter of the training pairs, see lpobench/data/mpcf.py (published: none)."""
    validate_every: int = Field(200, ge=1)
    """Steps between validations; the most accurate weights are kept (published: the last)."""
    validation_pairs: int = Field(1000, ge=1)
    """Validation pairs looked at each time, every one at a single timestep."""
    patience: int | None = Field(None, ge=1)
    """Stop after so many validations without a better one; unset trains to the end."""
    half: bool = True
    """Store weights in float16, half the size; the reported accuracy is that of the rounded weights."""


class DiNa(RewardSettings):
    """DiNa-LRM: half of the policy's own SD3 transformer, through an adapter, read by a small head."""

    weights: Literal["shipped", "random"] | Path = "shipped"
    """Folder of a trained DiNa-LRM, ours or in the released layout; an asset (dina-lrm); the one shipped for
    `backbone`; or "random": untrained, made of the run's own backbone as `training` says, for timing."""
    backbone: str = "tiny-sd3"
    """Whose shipped weights are used; read only while `weights` is "shipped"."""
    shared: bool = True
    """Look through the policy's own weights, in the same memory. false: a copy of that half, the adapter merged in:
    more memory, a little faster, and unmoved by a checkpoint that is put onto the policy."""
    level: Level = 0.4
    """Noise that finished latents are scored under, seeded (published: 0.4 for generated ones, 0.1 for those of image
    files). Noisy latents are scored at their own timestep."""
    ensemble: Literal["off", "clean", "all"] = "off"
    """Score finished latents, or all, at several levels at once, in as many passes: the head reads the tokens of all.
    Noisy latents are raised to the levels above their own."""
    ensemble_levels: Annotated[tuple[Level, ...], Field(min_length=1)] = (0.2, 0.5, 0.7)
    """Those levels (published: 0.2, 0.5, 0.7)."""
    logistic: bool | None = None
    """Bound scores to (-2, 2) by a logistic; unset: where it was trained with one. true on weights without: centre 0,
    slope 1 / 0.15."""
    reported: bool = False
    """Scores as the released examples print them, (score + 10) / 10."""
    seed: int = 0
    """Of the noise on finished latents; every prompt has its own."""
    pairs: Names = ("shapes-pairs",)
    """Preference data to train on: a shipped set, a folder of latents, a latent cache (`lpobench data encode`), or
    pairs with images, as `lpobench data inspect` reads them. Held-out pairs are the first one's."""
    training: DiNaTraining = DiNaTraining()
    """How it is trained, when it is."""

    @property
    def folder(self) -> Path:
        """Where it lies. Raises MissingAsset for an asset that is not on this machine."""
        if self.weights == "shipped":
            return SHIPPED_WEIGHTS / f"dina-{self.backbone}"
        from lpobench.data import assets

        is_asset = not self.weights.exists() and str(self.weights) in assets.names()
        return assets.locate(str(self.weights)) if is_asset else self.weights

    @property
    def config(self) -> DiNaConfig:
        """The folder's config.json. Raises UserError when the folder is not a DiNa-LRM."""
        return read_config(self.folder)

    @property
    def latent_space(self) -> str | None:
        """None, which is any, where it is made of the run's backbone."""
        return None if self.weights == "random" else self.config.latent_space

    def assets(self) -> dict[str, Path]:
        if self.weights == "random":
            return {}
        return {f"DiNa-LRM's {part}": path for part, path in weight_files(self.folder).items()}

    def training_data(self) -> dict[str, Path | str]:
        from lpobench.data.pairs.training import identity_of

        return {f"pairs {number}": identity_of(source) for number, source in enumerate(self.pairs)}

    def load(self, backbone: Backbone, device: torch.device, dtype: torch.dtype) -> DiNaReward:
        """The live reward. Its blocks run in `dtype`, or in the backbone's where they are shared; the head and the
        scores stay float32.
        """
        from rewards.dina import folder
        from rewards.dina.live import DiNaReward, Scoring
        from rewards.dina.text import Prompts

        if self.weights == "random":
            model = self._untrained(backbone).to(device)
        else:
            folder.check_backbone(self.config, backbone)
            model = folder.load(self.folder, backbone, shared=self.shared, logistic=self.logistic).to(device)
        model = model.sharing() if self.shared else model.merged(dtype)
        scoring = Scoring(
            level=self.level,
            ensemble=self.ensemble,
            ensemble_levels=self.ensemble_levels,
            reported=self.reported,
            seed=self.seed,
        )
        return DiNaReward(model, Prompts(backbone), scoring)

    def _untrained(self, backbone: Backbone) -> DiNaModel:
        """As its training would begin."""
        from rewards.dina.train import describe, new_model

        return new_model(describe(self, backbone, 0), backbone, 0, shared=self.shared)

    def train(
        self, backbone: Backbone, folder: Path, *, seed: int, device: torch.device, dtype: torch.dtype
    ) -> DiNa:
        """Train on `pairs`, on the backbone's weights, into `folder`. dtype bfloat16: autocast."""
        from rewards.dina.train import train_reward

        train_reward(self, backbone, folder, seed=seed, device=device, dtype=dtype)
        return self.model_copy(update={"weights": folder})

    def measured(self) -> dict[str, list[dict[str, float]]]:
        """Pair accuracy by timestep, against labels and truth."""
        return {} if self.weights == "random" else self.config.accuracy
