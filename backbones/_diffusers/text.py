"""Prompts and T5, alike in several families."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import BatchEncoding, PreTrainedTokenizerBase, T5EncoderModel

from backbones._diffusers.base import LatentDiffusion


def tokenized(tokenizer: PreTrainedTokenizerBase, prompts: list[str], length: int) -> BatchEncoding:
    """Padded to and cut at `length` tokens; which of them are no padding is in `attention_mask`."""
    fixed = {"padding": "max_length", "max_length": length, "truncation": True}
    return tokenizer(prompts, return_tensors="pt", **fixed)


def token_ids(
    tokenizer: PreTrainedTokenizerBase, prompts: list[str], length: int
) -> Int[Tensor, "n {length}"]:
    """The ids alone."""
    return tokenized(tokenizer, prompts, length).input_ids


def load_t5(backbone: LatentDiffusion, name: str, place: Literal["cpu", "device"]) -> T5EncoderModel:
    """With the other encoders; or to stay on the CPU, where there is no float16."""
    if place == "device":
        return backbone.load_text_encoder(name, T5EncoderModel)
    backbone.stay_on_cpu = (name,)
    dtype = torch.bfloat16 if backbone.dtype == torch.float16 else backbone.dtype
    return backbone.source.module(name, T5EncoderModel, dtype)


def encode_t5(
    backbone: LatentDiffusion, encoder: T5EncoderModel, ids: Int[Tensor, "n tokens"]
) -> Float[Tensor, "n tokens width"]:
    """Last hidden states, padding and all as the pipelines read them, where and as the backbone computes."""
    return encoder(ids.to(encoder.device))[0].to(backbone.device, backbone.dtype)
