"""What an LRM's folder says of itself without its weights being read. No torch.

Ours      config.json  head.safetensors  unet|transformer/  text_encoder[_2]/  tokenizer[_2]/
released  state_dict.pt (the head)       unet/              text_encoder[_2]/
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ValidationError

from lpobench.plugin import MissingAsset, UserError

PUBLISHED_VFE_SCALE = 7.5
CONFIG, HEAD, RELEASED_HEAD = "config.json", "head.safetensors", "state_dict.pt"
PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}


class LRMConfig(BaseModel, frozen=True):
    """`config.json` of an LRM's folder."""

    format: Literal[1] = 1
    backbone: str
    latent_space: str
    vfe_scale: float
    feature_dim: int
    projection_dim: int
    parts: tuple[str, ...] = ("unet", "text_encoder")
    """Subfolders with weights, named as in the family's stock pipeline."""
    t5_tokens: int = 0
    """Tokens that T5's text takes in an MMDiT's context; zeros where there is no T5."""
    t5_dim: int = 0
    """Width of the T5 it was trained with, which stays the backbone's; 0: without."""
    training: dict = {}
    """Settings it was trained with, and `best_step`."""
    accuracy: dict[str, list[dict]] = {}
    """Split -> rows of the accuracy-by-timestep table (see rewards/accuracy.py)."""

    @property
    def is_mmdit(self) -> bool:
        return "transformer" in self.parts


def read_config(folder: Path) -> LRMConfig:
    """Check that a folder looks like an LRM, ours or released. Raises MissingAsset or UserError."""
    path = folder / CONFIG
    if not path.is_file() and is_released(folder):
        return _released_config(folder)
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


def is_released(folder: Path) -> bool:
    """Whether it is laid out as the published LRM-1.5 and LRM-XL are."""
    files = (RELEASED_HEAD, "unet/config.json", "text_encoder/config.json")
    return not (folder / CONFIG).exists() and all((folder / file).is_file() for file in files)


def weight_files(folder: Path, config: LRMConfig) -> dict[str, Path]:
    """Part, or "head" -> its file."""
    if not is_released(folder):
        return {name: folder / part_file(name) for name in config.parts} | {"head": folder / HEAD}
    files = {name: folder / part_file(name) for name in config.parts}
    for name, path in files.items():
        pickle = path.with_name("pytorch_model.bin" if name.startswith("text") else f"{path.stem}.bin")
        if pickle.exists() and not path.exists():
            files[name] = pickle
    return files | {"head": folder / RELEASED_HEAD}


def part_file(name: str) -> str:
    """Weights of a part, relative to the LRM's folder."""
    return f"{name}/{'' if name.startswith('text') else 'diffusion_pytorch_'}model.safetensors"


def _released_config(folder: Path) -> LRMConfig:
    """What the released layout leaves unsaid: LRM-1.5 and LRM-XL differ by a second text encoder."""
    is_xl = (folder / "text_encoder_2" / CONFIG).is_file()
    last = "text_encoder_2" if is_xl else "text_encoder"
    try:
        channels = _json(folder / "unet" / CONFIG)["block_out_channels"]
        width = _json(folder / last / CONFIG)["projection_dim" if is_xl else "hidden_size"]
    except (ValueError, KeyError) as error:
        raise UserError(f"{folder} does not describe a released LRM: {error!r}") from error
    return LRMConfig(
        backbone="sdxl" if is_xl else "sd15",
        latent_space="sdxl-vae-f8c4" if is_xl else "sd-vae-f8c4",
        vfe_scale=PUBLISHED_VFE_SCALE,
        feature_dim=sum(channels) + channels[-1],
        projection_dim=width,
        parts=("unet", "text_encoder", "text_encoder_2") if is_xl else ("unet", "text_encoder"),
    )


def _json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))
