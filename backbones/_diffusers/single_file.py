"""A pipeline in one .safetensors file, with the original weight names, converted by diffusers.

The file holds weights only: configs and tokenizers come from a pipeline folder. Given one, diffusers never looks
for them on the network; without one it would, even when told to use local files.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import torch
from diffusers import DiffusionPipeline
from diffusers.loaders.single_file_utils import SingleFileComponentError
from safetensors import SafetensorError, safe_open
from torch import nn

from backbones._diffusers.parts import FolderSource, quiet
from lpobench.plugin import UserError

Module = TypeVar("Module", bound=nn.Module)

MARKS = {
    "StableDiffusionPipeline": "cond_stage_model.",
    "StableDiffusionXLPipeline": "conditioner.embedders.",
    "StableDiffusion3Pipeline": "model.diffusion_model.joint_blocks.",
}
"""How some weight names of a family begin, and of no other family here."""
T5 = "text_encoders.t5xxl."


class FileSource(FolderSource):
    """Modules from the file, everything else from the folder of configs."""

    def __init__(self, file: Path, configs: Path, pipeline: type[DiffusionPipeline]):
        super().__init__(configs)
        self.file, self.pipeline, self.names = file, pipeline, weight_names(file)
        mark = MARKS[pipeline.__name__]
        if not any(name.startswith(mark) for name in self.names):
            raise UserError(
                f"{file} is not a {pipeline.__name__} in one file: no name of a weight in it begins with {mark}"
            )

    def has(self, name: str) -> bool:
        """SD3's files come with and without T5; without, the folder may hold it."""
        if name in ("text_encoder_3", "tokenizer_3"):
            held = any(part.startswith(T5) for part in self.names)
            return super().has(name) and (held or any(self.folder.glob("text_encoder_3/*.safetensors")))
        return super().has(name)

    def module(self, name: str, cls: type[Module], dtype: torch.dtype) -> Module:
        others = {part: None for part in self._parts() if part != name}
        part = getattr(self.stock(self.pipeline, dtype, **others), name)
        if not isinstance(part, cls):
            raise UserError(
                f"{self.folder} lists {name} as {type(part).__name__}, it should be {cls.__name__}"
            )
        if lost := [key for key, value in part.named_parameters() if value.is_meta]:
            raise UserError(f"{self.file} has no weights for {name}.{lost[0]} and {len(lost) - 1} more")
        return part.eval().requires_grad_(False)

    def stock(self, cls: type[DiffusionPipeline], dtype: torch.dtype, **parts) -> DiffusionPipeline:
        absent = {name: None for name in self._parts() if not self.has(name)}
        config = {"config": str(self.folder), "local_files_only": True, "dtype": dtype}
        try:
            with quiet():
                return cls.from_single_file(str(self.file), **config, **(absent | parts))
        except (SingleFileComponentError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"cannot read the weights in {self.file}: {reason}") from error

    def _parts(self) -> list[str]:
        """Components that are listed in model_index.json, but for options of the pipeline itself."""
        return [name for name, value in self.index().items() if isinstance(value, list)]


def weight_names(file: Path) -> list[str]:
    """Names of the weights in a safetensors file; reads its header. Raises UserError."""
    try:
        with safe_open(file, framework="pt") as weights:
            return list(weights.keys())
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} cannot be read as safetensors: {error}") from error
