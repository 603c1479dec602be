"""What a DiNa-LRM's folder says of itself without its weights being read. No torch.

Ours      config.json  head.safetensors  rm_lora.safetensors
released  config.json  rm_head.pt        backbone_lora/adapter_model.safetensors     (or all but the first in
          checkpoint/, as its own code looks for them)
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ValidationError

from lpobench.plugin import MissingAsset, UserError

CONFIG, HEAD, LORA = "config.json", "head.safetensors", "rm_lora.safetensors"
RELEASED_HEAD, RELEASED_LORA = "rm_head.pt", "backbone_lora/adapter_model.safetensors"
RELEASED_MODELS = {
    "stabilityai/stable-diffusion-3.5-medium": "sd35",
    "stabilityai/stable-diffusion-3-medium-diffusers": "sd3",
}
"""Model id in a released config -> backbone."""


class HeadConfig(BaseModel, frozen=True):
    """Sizes of the head; defaults as published."""

    width: int | None = None
    """None: the transformer's."""
    num_queries: int = 4
    num_heads: int = 8
    proj_in: bool = False


class DiNaConfig(BaseModel, frozen=True):
    """`config.json` of a DiNa-LRM's folder."""

    format: Literal["dina-1"] = "dina-1"
    backbone: str
    """Whose weights the adapter was trained on."""
    latent_space: str
    layers: int
    visual_taps: tuple[int, ...]
    text_taps: tuple[int, ...]
    rank: int
    alpha: int
    head: HeadConfig = HeadConfig()
    logistic: bool = False
    """Whether scores go through a logistic that was trained along."""
    t5_tokens: int | None = None
    """Text tokens of T5 it was trained with; 0: zeros stood in their place; None: not known."""
    training: dict = {}
    """Settings it was trained with, and `best_step`."""
    accuracy: dict[str, list[dict]] = {}
    """Split -> rows of the accuracy-by-timestep table."""


def read_config(folder: Path) -> DiNaConfig:
    """Check that a folder looks like a DiNa-LRM, ours or released. Raises MissingAsset or UserError."""
    path = folder / CONFIG
    if not path.is_file():
        raise MissingAsset(f"no DiNa-LRM in {folder}; train one with `lpobench reward train --reward dina`")
    try:
        found = json.loads(path.read_bytes())
        if isinstance(found, dict) and "format" not in found and "model" in found:
            return _released(found["model"])
        return DiNaConfig.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        problem = f"{'.'.join(map(str, first['loc']))}: {first['msg']}".removeprefix(": ")
        raise UserError(f"{path} does not describe a DiNa-LRM: {problem}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} does not describe a DiNa-LRM: {error!r}") from error


def weight_files(folder: Path) -> dict[str, Path]:
    """ "head" and "lora" -> its file."""
    for place in (folder, folder / "checkpoint"):
        if (place / RELEASED_HEAD).is_file():
            return {"head": place / RELEASED_HEAD, "lora": place / RELEASED_LORA}
    return {"head": folder / HEAD, "lora": folder / LORA}


def _released(model: dict) -> DiNaConfig:
    """Of the released config's `model` section. Raises KeyError, TypeError or ValueError."""
    name, lora, head = model["backbone_model_id"], model["lora_config"], model["reward_head"]
    if name not in RELEASED_MODELS:
        raise ValueError(f"backbone_model_id {name} is none of {', '.join(RELEASED_MODELS)}")
    if model["freeze_backbone"] or not model["use_lora"]:
        raise ValueError("only one that was trained with a LoRA can be read")
    return DiNaConfig(
        backbone=RELEASED_MODELS[name],
        latent_space="sd3-vae-f8c16",
        layers=model["num_transformer_layers"],
        visual_taps=model["visual_head_idx"],
        text_taps=model["text_head_idx"],
        rank=lora["r"],
        alpha=lora["lora_alpha"],
        head=HeadConfig(
            width=None if head["width"] == -1 else head["width"],
            num_queries=head["num_queries"],
            num_heads=head["num_attn_heads"],
            proj_in=head["use_proj_in"],
        ),
    )
