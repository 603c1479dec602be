"""Where a pipeline's parts come from: a stock folder, a single file, or an architecture filled with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, TypeVar

import diffusers
import torch
from diffusers import AutoencoderKL, DiffusionPipeline
from torch import nn

from backbones._diffusers.parts import FolderSource, load_part
from backbones._diffusers.random_weights import RandomSource
from backbones._diffusers.single_file import FileSource
from backbones.family import PipelineSettings

Part = TypeVar("Part")
Module = TypeVar("Module", bound=nn.Module)


class Source(Protocol):
    """The parts of one pipeline, by their names in it. Modules come in eval mode, frozen, on the CPU."""

    def has(self, name: str) -> bool:
        """Does the pipeline have this part? Optional ones may be absent, such as SD3's third text encoder."""
        ...

    def module(self, name: str, cls: type[Module], dtype: torch.dtype) -> Module:
        """A part with weights, read anew."""
        ...

    def tokenizer(self, name: str, cls: type[Part]) -> Part: ...

    def scheduler_config(self) -> dict: ...

    def index(self) -> dict:
        """model_index.json: options of the pipeline itself, such as `force_zeros_for_empty_prompt`."""
        ...

    def stock(self, cls: type[DiffusionPipeline], dtype: torch.dtype, **parts) -> DiffusionPipeline:
        """A fresh stock pipeline of the same weights, on the CPU; parts given replace its own (None: left out)."""
        ...


def open_source(settings: PipelineSettings) -> Source:
    """The source that settings name. Raises MissingAsset or UserError before any weight is read."""
    if settings.weights == "random":
        return RandomSource(settings.architecture)
    place, vae = settings.located(), settings.located_vae()
    if place.is_dir():
        source = FolderSource(place)
    else:
        source = FileSource(place, settings.configs(place), getattr(diffusers, settings.pipeline))
    return source if vae is None else WithVae(source, vae)


class WithVae:
    """A source with another VAE in place of its own."""

    def __init__(self, source: Source, folder: Path):
        self.source, self.folder = source, folder
        self.has, self.index = source.has, source.index
        self.tokenizer, self.scheduler_config = source.tokenizer, source.scheduler_config

    def module(self, name: str, cls: type[Module], dtype: torch.dtype) -> Module:
        if name != "vae":
            return self.source.module(name, cls, dtype)
        part = load_part(cls.from_pretrained, self.folder, dtype=dtype, use_safetensors=True)
        return part.eval().requires_grad_(False)

    def stock(self, cls: type[DiffusionPipeline], dtype: torch.dtype, **parts) -> DiffusionPipeline:
        if "vae" not in parts:
            parts["vae"] = self.module("vae", AutoencoderKL, dtype)
        return self.source.stock(cls, dtype, **parts)
