"""What an SPM says of itself without its weights being read. No torch.

Ours      config.json  model.safetensors  clip/ (config.json, preprocessor_config.json, tokenizer files)
released  one file, .bin or .safetensors: every parameter, and nothing else
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ValidationError

from lpobench.plugin import MissingAsset, UserError

CONFIG, WEIGHTS, CLIP = "config.json", "model.safetensors", "clip"
CLIP_CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
RELEASED_SUFFIXES = {".bin", ".safetensors"}


class SPMConfig(BaseModel, frozen=True, extra="forbid"):
    """`config.json` of an SPM's folder."""

    format: Literal[1] = 1
    kind: Literal["spm"] = "spm"
    backbone: str
    """Whose x0 estimates it was trained on."""
    is_flow: bool = False
    """Whether its timesteps are a flow's, 1000 sigma, or Stable Diffusion's DDPM ones."""
    training: dict = {}
    """Settings it was trained with, and `best_step`."""
    accuracy: dict[str, list[dict]] = {}
    """Split -> rows of the accuracy-by-timestep table (see rewards/accuracy.py)."""


def is_released(place: Path) -> bool:
    """Whether it is a single file, as the published SPMs are."""
    return place.is_file() and place.suffix in RELEASED_SUFFIXES


def read_config(place: Path) -> SPMConfig:
    """Check that a place looks like an SPM, ours or released. Raises MissingAsset or UserError."""
    if is_released(place):
        return SPMConfig(backbone="sdxl" if "sdxl" in place.name else "sd15")
    path = place / CONFIG
    if not path.is_file():
        raise MissingAsset(f"no SPM in {place}; train one with `lpobench reward train --reward spm`")
    try:
        return SPMConfig.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        problem = f"{'.'.join(map(str, first['loc']))}: {first['msg']}".removeprefix(": ")
        raise UserError(f"{path} does not describe an SPM: {problem}") from error
