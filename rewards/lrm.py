"""LRM, the latent reward model of LPO (arXiv:2502.01051, sec. 4.1): settings. The model: lrm_model.py."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from lpobench.plugin import MissingAsset, RewardSettings, Settings, UserError

if TYPE_CHECKING:
    import torch

    from lpobench.types import Backbone
    from rewards.lrm_model import LatentReward

PUBLISHED_VFE_SCALE = 7.5
SHIPPED_WEIGHTS = Path(__file__).parent / "weights"
SHIPPED_PAIRS = {"shapes-pairs": Path(__file__).parent.parent / "backbones" / "tiny" / "shapes-pairs"}
UNET_FILE, TEXT_FILE = "unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"
HEAD_FILE = "head.safetensors"
WEIGHT_FILES = (UNET_FILE, TEXT_FILE, HEAD_FILE)
PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}

PairSources = Annotated[tuple[str, ...], BeforeValidator(lambda v: (v,) if isinstance(v, str) else v)]


class LRMConfig(BaseModel, frozen=True):
    """`config.json` of an LRM folder: what can be known without reading weights."""

    format: Literal[1] = 1
    backbone: str
    latent_space: str
    vfe_scale: float
    feature_dim: int
    projection_dim: int
    training: dict = {}
    """Settings it was trained with, and `best_step`."""
    accuracy: dict[str, list[dict]] = {}
    """Split -> rows of the accuracy-by-timestep table (see rewards/pairwise.py)."""


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
    mpcf: Literal["none", "1", "2", "3"] = "none"
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

    weights: Literal["shipped"] | Path = "shipped"
    """Folder of a trained LRM, or the one shipped for `backbone`."""
    backbone: str = "tiny-sd15"
    """Whose shipped LRM is used; read only while `weights` is "shipped"."""
    vfe_scale: float | None = None
    """Visual feature enhancement: guidance on the mid feature, 1 is off; unset: as the LRM was trained."""
    pairs: PairSources = ("shapes-pairs",)
    """Preference data to train on: folders, or a shipped set. Held-out pairs are the first one's."""
    training: LRMTraining = LRMTraining()
    """How it is trained, when it is."""

    @property
    def folder(self) -> Path:
        return SHIPPED_WEIGHTS / f"lrm-{self.backbone}" if self.weights == "shipped" else Path(self.weights)

    @property
    def config(self) -> LRMConfig:
        """The folder's config.json. Raises UserError when the folder is not an LRM."""
        return read_config(self.folder)

    @property
    def latent_space(self) -> str:
        return self.config.latent_space

    def assets(self) -> dict[str, Path]:
        return {f"LRM's {Path(name).parent.name or 'head'}": self.folder / name for name in WEIGHT_FILES}

    def training_data(self) -> dict[str, Path]:
        return {f"pairs {number}": folder for number, folder in enumerate(self.pair_folders())}

    def pair_folders(self) -> list[Path]:
        return [SHIPPED_PAIRS.get(source, Path(source)) for source in self.pairs]

    def load(self, backbone: Backbone, device: torch.device, dtype: torch.dtype) -> LatentReward:
        """The live reward. Its blocks run in `dtype`; projections and scores stay float32."""
        reads, makes = self.latent_space, backbone.latent_space
        if reads != makes:
            raise UserError(f"reward lrm reads latents of {reads}, backbone {backbone.name} makes {makes}")
        from rewards.lrm_model import LatentReward, LatentRewardModel

        model = LatentRewardModel.load(self.folder, self.vfe_scale).to(device)
        return LatentReward(model.cast_blocks(dtype), reads)

    def train(
        self, backbone: Backbone, folder: Path, *, seed: int, device: torch.device, dtype: torch.dtype
    ) -> LRM:
        """Train on `pairs`, from the backbone's weights, into `folder`. dtype bfloat16: autocast."""
        from rewards.train import train_reward

        train_reward(self, backbone, folder, seed=seed, device=device, dtype=dtype)
        return self.model_copy(update={"weights": folder})

    def measured(self) -> dict[str, list[dict[str, float]]]:
        """Pair accuracy by timestep, against labels and truth."""
        return self.config.accuracy


def read_config(folder: Path) -> LRMConfig:
    """Check that a folder looks like an LRM and read its config.json; no weights, no torch."""
    path = folder / "config.json"
    if not path.is_file():
        files = [folder] if folder.is_file() else sorted([*folder.glob("*"), *folder.glob("*/*")])
        if pickle := next((file for file in files if file.suffix in PICKLES), None):
            raise UserError(f"{pickle} may run code when read; an LRM is a folder of safetensors")
        raise MissingAsset(f"no LRM in {folder}; train one with `lpobench reward train`")
    try:
        return LRMConfig.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        problem = f"{'.'.join(map(str, first['loc']))}: {first['msg']}".removeprefix(": ")
        raise UserError(f"{path} does not describe an LRM: {problem}") from error
