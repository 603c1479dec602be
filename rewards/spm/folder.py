"""Making an SPM of a CLIP, writing and reading its folder (its layout: config.py). Ours holds safetensors only."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import Tensor
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

from lpobench.plugin import MissingAsset, UserError
from lpobench.weights import fill, read_tensors, write_weights
from rewards.spm.config import CLIP, CLIP_CONFIG, CONFIG, PROCESSOR, WEIGHTS, SPMConfig, is_released
from rewards.spm.model import Preprocessing, StepAwareCLIP

RELEASED_NAMES = (
    ("vision_model.adaLN_modulation.1.", "final."),
    ("t_embedder.mlp.", "time."),
    ("", "clip."),
)
"""Start of a parameter's name in the released files, after "model.", and here. A layer's: see `_renamed`."""
LAYER, MODULATION = "vision_model.encoder.layers.", ".adaLN_modulation.1."


@dataclass(frozen=True)
class ClipPlaces:
    """Where a CLIP's parts lie: config.json and weights in one folder, tokenizer and preprocessing perhaps in another
    (PickScore's folder has neither; they are those of LAION's CLIP ViT-H).
    """

    clip: Path
    processor: Path

    @classmethod
    def inside(cls, folder: Path) -> Self:
        return cls(folder, folder)

    def config(self) -> CLIPConfig:
        """Raises MissingAsset or UserError."""
        if not (self.clip / CLIP_CONFIG).is_file():
            raise MissingAsset(f"no CLIP in {self.clip}: it has no {CLIP_CONFIG}")
        try:
            config = CLIPConfig.from_pretrained(self.clip, local_files_only=True)
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{self.clip / CLIP_CONFIG} does not describe a CLIP: {_line(error)}") from error
        if config.model_type != "clip":
            raise UserError(
                f"{self.clip / CLIP_CONFIG} describes a {config.model_type}, an SPM is made of a clip"
            )
        return config

    def tokenizer(self, config: CLIPConfig) -> CLIPTokenizer:
        if not any((self.processor / name).is_file() for name in ("tokenizer.json", "vocab.json")):
            raise MissingAsset(
                f"no tokenizer in {self.processor}; reward.processor names a folder that has one"
            )
        tokenizer = CLIPTokenizer.from_pretrained(self.processor, local_files_only=True)
        if len(tokenizer) != config.text_config.vocab_size:
            raise UserError(
                f"the tokenizer in {self.processor} knows {len(tokenizer)} tokens, "
                f"the CLIP in {self.clip} {config.text_config.vocab_size}"
            )
        return tokenizer

    def preprocessing(self, config: CLIPConfig) -> Preprocessing:
        return Preprocessing.read(self.processor / PROCESSOR, config.vision_config.image_size)


def from_clip(places: ClipPlaces, seed: int) -> StepAwareCLIP:
    """The start of a training: scores are the CLIP's at every t. float32, CPU. Raises MissingAsset or UserError."""
    config = places.config()
    if not (places.clip / "model.safetensors").is_file():
        raise MissingAsset(f"no CLIP in {places.clip}: it has no model.safetensors")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = StepAwareCLIP(CLIPModel(config), places.tokenizer(config), places.preprocessing(config))
    clip = places.clip / "model.safetensors"
    fill(model.clip, read_tensors(clip), clip, torch.float32)
    return model


def save(model: StepAwareCLIP, folder: Path, config: SPMConfig, dtype: torch.dtype) -> None:
    """Write the folder: weights in `dtype`, the logit scale in float32, config.json last."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).unlink(missing_ok=True)
    kept = model.preprocessing
    side = {"height": kept.size, "width": kept.size}
    CLIPImageProcessor(
        size={"shortest_edge": kept.size}, crop_size=side, image_mean=kept.mean, image_std=kept.std
    ).save_pretrained(folder / CLIP)
    model.clip.config.save_pretrained(folder / CLIP)
    model.tokenizer.save_pretrained(folder / CLIP)
    write_weights(rounded(model, dtype), folder / WEIGHTS)
    (folder / CONFIG).write_text(config.model_dump_json(indent=2) + "\n")


def rounded(model: StepAwareCLIP, dtype: torch.dtype) -> dict[str, Tensor]:
    """Weights as they are stored."""
    scale = "clip.logit_scale"
    return {key: value if key == scale else value.to(dtype) for key, value in model.state_dict().items()}


def load(place: Path, released_clip: ClipPlaces | None = None) -> StepAwareCLIP:
    """Read a folder of ours or a released file: CPU, float32. UserError names the file that is wrong.

    `released_clip`: of whose architecture and tokenizer a released file is; its weights are not read.
    """
    released = is_released(place)
    places = released_clip if released else ClipPlaces.inside(place / CLIP)
    assert places is not None
    config = places.config()
    with torch.random.fork_rng(devices=[]):
        model = StepAwareCLIP(CLIPModel(config), places.tokenizer(config), places.preprocessing(config))
    file = place if released else place / WEIGHTS
    fill(model, (_read_released if released else read_tensors)(file), file, torch.float32)
    return model


def _read_released(path: Path) -> dict[str, Tensor]:
    """By the names the parameters have here."""
    return {_renamed(key.removeprefix("model.")): value for key, value in read_tensors(path).items()}


def _renamed(key: str) -> str:
    if key.startswith(LAYER) and MODULATION in key:
        return f"layers.{key.removeprefix(LAYER).replace(MODULATION, '.')}"
    theirs, ours = next(names for names in RELEASED_NAMES if key.startswith(names[0]))
    return ours + key.removeprefix(theirs)


def _line(error: Exception) -> str:
    logging.getLogger(__name__).debug("%s", error)
    return str(error).splitlines()[0] if str(error) else type(error).__name__
