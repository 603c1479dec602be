"""Parts of a pipeline from a stock folder, failures told in one line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TypeVar

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from safetensors import SafetensorError
from torch import nn
from transformers.utils import logging as transformers_logging

from backbones.family import read_json
from lpobench.plugin import MissingAsset, UserError

Part = TypeVar("Part")
Module = TypeVar("Module", bound=nn.Module)


class FolderSource:
    """A pipeline folder as `save_pretrained` writes it, or as a hub snapshot has it."""

    def __init__(self, folder: Path):
        self.folder = folder

    def has(self, name: str) -> bool:
        return self.index().get(name, [None])[0] is not None

    def module(self, name: str, cls: type[Module], dtype: torch.dtype) -> Module:
        part = load_part(cls.from_pretrained, self.folder / name, dtype=dtype, use_safetensors=True)
        return part.eval().requires_grad_(False)

    def tokenizer(self, name: str, cls: type[Part]) -> Part:
        return load_part(cls.from_pretrained, self.folder / name)

    def scheduler_config(self) -> dict:
        return read_json(self.folder / "scheduler" / "scheduler_config.json")

    def index(self) -> dict:
        return read_json(self.folder / "model_index.json")

    def stock(self, cls: type[DiffusionPipeline], dtype: torch.dtype, **parts) -> DiffusionPipeline:
        index, options = self.index(), {}
        for name in ("safety_checker", "feature_extractor", "image_encoder"):  # no part of what we compare
            if name in index:
                parts.setdefault(name, None)
        if "requires_safety_checker" in index:
            options["requires_safety_checker"] = False
        for name in index:
            if name not in parts and variant_of(self.folder / name):
                library, kind = index[name]
                parts[name] = self.module(name, getattr(import_module(library), kind), dtype)
        with quiet():
            return cls.from_pretrained(
                self.folder, dtype=dtype, use_safetensors=True, local_files_only=True, **options, **parts
            )


def load_part(load: Callable[..., Part], folder: Path, **options) -> Part:
    """`from_pretrained` on a local folder, its failures told in one line."""
    if not folder.is_dir():
        raise MissingAsset(f"no such model folder: {folder}; give a diffusers pipeline folder that holds it")
    pickles = [*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.ckpt")]
    if pickles and not any(folder.glob("*.safetensors")):
        raise UserError(f"{pickles[0]} is a pickle and is not read; convert it to safetensors")
    if variant := variant_of(folder):
        options["variant"] = variant
    try:
        with quiet():
            return load(folder, local_files_only=True, **options)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"cannot read the weights in {folder}: {reason}") from error


def variant_of(folder: Path) -> str | None:
    """ "fp16" where a folder holds half-precision weights only, as a download of just those leaves it."""
    names = [path.name for path in folder.glob("*.safetensors")]
    return "fp16" if names and all(".fp16" in name for name in names) else None


@contextmanager
def quiet() -> Iterator[None]:
    """No bars for a few local files, and no word on a text encoder that has, rightly, no LoRA."""
    libraries = (diffusers_logging, transformers_logging)
    levels = [library.get_verbosity() for library in libraries]
    for library in libraries:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library, level in zip(libraries, levels, strict=True):
            library.set_verbosity(level)
            library.enable_progress_bar()
