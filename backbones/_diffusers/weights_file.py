"""Files of weights: which one of a folder is meant, and its tensors, read without running any code."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from lpobench.plugin import MissingAsset, UserError
from lpobench.weights import read_tensors, told

LORA_NAMES = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")
MODEL_NAMES = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors")
SHARDS = "diffusion_pytorch_model-*-of-*.safetensors"
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
HEADER = "lora_adapter_metadata"
"""Where diffusers keeps a LoRA's settings in a safetensors file's header."""
Config = Mapping[str, object]


@dataclass(frozen=True)
class WeightsFile:
    """A checkpoint's file, and the LoRA settings that came with it: in its header, or beside it."""

    path: Path
    shards: tuple[Path, ...]
    config: Config = field(default_factory=dict)


def find_weights(path: Path, component: str) -> WeightsFile:
    """The file meant by a file's or a folder's path; `component`, unet or transformer, is looked for inside.

    Raises MissingAsset when there is none, UserError when there are several.
    """
    if not path.exists():
        raise MissingAsset(f"no such checkpoint: {path}; give a safetensors file or a folder that holds one")
    if path.is_file():
        return WeightsFile(path, (path,), _lora_config(path))
    for inside, names in ((path, LORA_NAMES), (path / component, MODEL_NAMES), (path, MODEL_NAMES)):
        for file in (inside / name for name in names):
            if file.is_file():
                return WeightsFile(file, (file,), _lora_config(file))
        if shards := _shards(inside):
            return WeightsFile(shards[0], shards)
    file = _only_one(path, component)
    return WeightsFile(file, (file,), _lora_config(file))


def read_weights(found: WeightsFile) -> dict[str, Tensor]:
    """All tensors, on the CPU. Raises UserError."""
    return {key: value for shard in found.shards for key, value in read_tensors(shard).items()}


def _shards(folder: Path) -> tuple[Path, ...]:
    """All pieces of a model that is split over files, named ...-00001-of-00003.safetensors."""
    files = sorted(folder.glob(SHARDS))
    files = [file for file in files if ".fp16" not in file.name] or files
    total = int(re.search(r"-of-(\d+)", files[0].name)[1]) if files else 0
    if len(files) != total:
        raise MissingAsset(f"{folder} holds {len(files)} of {total} files {SHARDS}; is it all there?")
    return tuple(files)


def _only_one(folder: Path, component: str) -> Path:
    files = sorted(folder.glob("*.safetensors"))
    files = files or sorted(file for file in folder.iterdir() if file.suffix in PICKLES)
    if not files:
        raise MissingAsset(f"no weights in {folder}; it should hold a LoRA file or a folder {component}/")
    if len(files) > 1:
        raise UserError(
            f"{folder} holds several weights; name one of {', '.join(file.name for file in files)}"
        )
    return files[0]


def _lora_config(file: Path) -> Config:
    if file.suffix == ".safetensors":
        with told(file), safe_open(file, "pt") as opened:
            header = (opened.metadata() or {}).get(HEADER)
        if header:
            return _parse(file, header)
    beside = file.parent / "adapter_config.json"
    return (
        _parse(beside, beside.read_text("utf-8")) if file.name == LORA_NAMES[1] and beside.is_file() else {}
    )


def _parse(file: Path, text: str) -> Config:
    with told(file):
        return dict(json.loads(text))
