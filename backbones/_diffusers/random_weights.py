"""True-size pipelines with random weights, with no download: for timing, memory and tests on a GPU."""

from __future__ import annotations

import string
from collections.abc import Callable
from typing import TypeVar

import diffusers
import torch
from accelerate import init_empty_weights
from diffusers import ConfigMixin, DiffusionPipeline
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    CLIPTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen2Tokenizer,
    Qwen3Model,
    T5Tokenizer,
)

from backbones._diffusers.architectures import ARCHITECTURES, PIPELINE_OPTIONS
from backbones._diffusers.parts import quiet

Part = TypeVar("Part")
Module = TypeVar("Module", bound=nn.Module)

STD = 0.02
NOISE = 2**22 + 3
"""Random numbers drawn; longer weights repeat them."""
LEFT_OPEN: dict[type, type] = {PreTrainedModel: Qwen3Model, AutoTokenizer: Qwen2Tokenizer}
"""Classes of parts that a pipeline's signature does not name: Z-Image's."""


class RandomSource:
    """An architecture by its name. The same weights every time; tokenizers that know single characters only."""

    def __init__(self, architecture: str):
        self.architecture, self.components = architecture, ARCHITECTURES[architecture]

    def has(self, name: str) -> bool:
        return name in self.components

    def empty(self, name: str, cls: type[Module]) -> Module:
        """The module with its parameters on the meta device: to count them."""
        config = dict(self.components[name])
        diffusers_class = issubclass(cls, ConfigMixin)
        with init_empty_weights(), quiet():
            made = cls.from_config(config) if diffusers_class else cls(cls.config_class(**config))
        if not diffusers_class:
            made.tie_weights()  # T5 shares its embedding; outside, where parameters are not made anew
        return made.eval().requires_grad_(False)

    def module(self, name: str, cls: type[Module], dtype: torch.dtype) -> Module:
        return fill(self.empty(name, cls), dtype)

    def tokenizer(self, name: str, cls: type[Part]) -> Part:
        options = self.components[name]
        return STAND_INS[cls](**options)

    def scheduler_config(self) -> dict:
        return dict(self.components["scheduler"])

    def index(self) -> dict:
        return dict(PIPELINE_OPTIONS.get(self.architecture, {}))

    def stock(self, cls: type[DiffusionPipeline], dtype: torch.dtype, **parts) -> DiffusionPipeline:
        made = {name: self._part(cls, name, dtype) for name in self.components if name not in parts}
        absent = {"safety_checker", "feature_extractor"} & set(cls._get_signature_types())
        with quiet():
            return cls(**made, **parts, **dict.fromkeys(absent - parts.keys()), **self.index())

    def _part(self, pipeline: type[DiffusionPipeline], name: str, dtype: torch.dtype):
        config = self.scheduler_config()
        if name == "scheduler":
            return getattr(diffusers, config["_class_name"]).from_config(config)
        (cls,) = pipeline._get_signature_types()[name]
        cls = LEFT_OPEN.get(cls, cls)
        return self.tokenizer(name, cls) if name.startswith("tokenizer") else self.module(name, cls, dtype)


@torch.no_grad()
def fill(module: Module, dtype: torch.dtype, seed: int = 0) -> Module:
    """Parameters from the meta device to the CPU: norms at 1, biases at 0, the rest N(0, 0.02^2).

    Pieces of one long draw, so that billions of weights take seconds. Buffers are as the module computed them.
    """
    noise = (STD * torch.randn(NOISE, generator=torch.Generator().manual_seed(seed))).to(dtype)
    made: dict[int, nn.Parameter] = {}
    start = 0
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            if id(parameter) not in made:  # a tied weight is made once
                made[id(parameter)] = nn.Parameter(
                    _values(name, parameter, noise, start), requires_grad=False
                )
                start = (start + parameter.numel()) % NOISE
            setattr(part, name, made[id(parameter)])
        for name, buffer in part.named_buffers(recurse=False):
            if buffer.is_floating_point():
                setattr(part, name, buffer.to(dtype))
    return module


def _values(name: str, parameter: Tensor, noise: Tensor, start: int) -> Tensor:
    if parameter.ndim < 2:
        return torch.full(parameter.shape, float(name == "weight"), dtype=noise.dtype)
    values = torch.empty(parameter.numel(), dtype=noise.dtype)
    done = 0
    while done < len(values):
        piece = noise[start : start + len(values) - done]
        values[done : done + len(piece)] = piece
        done, start = done + len(piece), 0
    return values.view(parameter.shape)


def stand_in_tokenizer(pad_token: str, model_max_length: int) -> CLIPTokenizer:
    """CLIP's first 512 tokens, the bytes inside and at the end of a word, no merges; begin and end as CLIP's."""
    letters = sorted(ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate([*letters, *(f"{letter}</w>" for letter in letters)])}
    vocab |= {"<|startoftext|>": 49406, "<|endoftext|>": 49407}
    return CLIPTokenizer(vocab=vocab, merges=[], pad_token=pad_token, model_max_length=model_max_length)


def stand_in_t5_tokenizer(model_max_length: int) -> T5Tokenizer:
    """T5's special tokens, and printable ASCII one character at a time."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(letter, -3.0) for letter in string.printable.strip()]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=model_max_length)


def stand_in_chat_tokenizer(model_max_length: int) -> Qwen2Tokenizer:
    """Bytes, no merges; who speaks and what is said, a line each."""
    vocab = {token: i for i, token in enumerate([*sorted(ByteLevel.alphabet()), "<|endoftext|>"])}
    chat = "{% for said in messages %}{{ said.role }}\n{{ said.content }}\n{% endfor %}"
    return Qwen2Tokenizer(vocab=vocab, merges=[], model_max_length=model_max_length, chat_template=chat)


STAND_INS: dict[type, Callable[..., PreTrainedTokenizerBase]] = {
    CLIPTokenizer: stand_in_tokenizer,
    T5Tokenizer: stand_in_t5_tokenizer,
    Qwen2Tokenizer: stand_in_chat_tokenizer,
}
