"""Where a scorer's weights are, and folders of transformers' layout."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from lpobench import weights as weights_on_disk
from lpobench.plugin import MissingAsset, UserError
from lpobench.weights import read_tensors, told

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from transformers import PreTrainedModel

Pretrained = TypeVar("Pretrained", bound="PreTrainedModel")


def place(name: str) -> Path:
    """A shipped thing, a file or folder, or an asset. Raises MissingAsset or UserError where nothing is."""
    from lpobench.data.shipped import shipped

    path = shipped(name) or Path(name).expanduser()
    if path.exists():
        return path
    if shipped(name):
        raise MissingAsset(f"no {name} in {path}, where the project ships it; install it whole")
    from lpobench.data import assets

    return assets.locate(name)


def inside(folder: Path, *names: str) -> Path:
    """The first of these files that a folder has. Raises MissingAsset."""
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise MissingAsset(f"{folder} has no {' or '.join(names)}")


def read_json(path: Path) -> dict[str, object]:
    """Raises UserError."""
    with told(path):
        found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise UserError(f"{path} should hold names and values")
    return found


def read_folder(folder: Path, dtype: torch.dtype) -> dict[str, Tensor]:
    """The weights in a folder of transformers' layout, in one dtype; of one file, or of an index and its parts.
    Raises MissingAsset or UserError.
    """
    names = ("model.safetensors", "pytorch_model.bin")
    file = inside(folder, *(name + end for name in names for end in ("", ".index.json")))
    parts = [file]
    if file.suffix == ".json":
        listed = read_json(file).get("weight_map")
        if not isinstance(listed, dict):
            raise UserError(f"{file} has no weight_map")
        parts = [inside(folder, name) for name in sorted(set(listed.values()))]
    return {name: value.to(dtype) for part in parts for name, value in read_tensors(part).items()}


def fill(module: nn.Module, weights: Mapping[str, Tensor], path: Path, dtype: torch.dtype) -> None:
    """Put all of a module's weights in, in one dtype, and freeze it; what else there is, is not read.

    Raises UserError.
    """
    import torch

    weights_on_disk.fill(module, weights, path, dtype)
    for part in module.modules():  # in no file
        if (places := dict(part.named_buffers(recurse=False)).get("position_ids")) is not None:
            part.position_ids = torch.arange(places.shape[-1])[None]
    module.requires_grad_(False).eval()


def from_folder(
    cls: type[Pretrained], folder: Path, config: object, what: str, dtype: torch.dtype
) -> Pretrained:
    """A transformers model from a folder of its layout, whole. Raises UserError."""
    with told(folder), quiet():
        model, found = cls.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    if wrong := sorted([*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])]):
        raise UserError(f"{folder} holds no {what}: {wrong[0]} is missing or of another size")
    return model


@contextmanager
def quiet() -> Iterator[None]:
    """No bars and tables of transformers: what is wrong with a file, we say."""
    from transformers.utils import logging as library

    level, bars = library.get_verbosity(), library.is_progress_bar_enabled()
    library.set_verbosity_error()
    library.disable_progress_bar()
    try:
        yield
    finally:
        library.set_verbosity(level)
        if bars:
            library.enable_progress_bar()
