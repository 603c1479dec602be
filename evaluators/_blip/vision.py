"""BLIP's vision transformer: its sizes, read off the weights, and its names in transformers.

theirs                                                 transformers' BlipVisionModel
cls_token, pos_embed, patch_embed.proj                 embeddings.{class,position,patch}_embedding
blocks.i.{norm1, norm2, mlp}                           encoder.layers.i.{layer_norm1, layer_norm2, mlp}
blocks.i.attn.{qkv, proj}                              encoder.layers.i.self_attn.{qkv, projection}
norm                                                   post_layernorm
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from torch import Tensor
from transformers import BlipVisionConfig

HEAD_WIDTH = 64
"""Of attention, in BLIP's base and large models."""
EPS = 1e-6
"""Of LayerNorm; transformers' default for BLIP is 1e-5, which moves an ImageReward by 5e-4."""
NAMES = {
    r"^cls_token$": "embeddings.class_embedding",
    r"^pos_embed$": "embeddings.position_embedding",
    r"^patch_embed\.proj\.": "embeddings.patch_embedding.",
    r"^norm\.": "post_layernorm.",
    r"^blocks\.": "encoder.layers.",
    r"\.norm(?=[12]\.)": ".layer_norm",
    r"\.attn\.qkv\.": ".self_attn.qkv.",
    r"\.attn\.proj\.": ".self_attn.projection.",
}


def renamed(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """By transformers' names."""
    found = {}
    for name, value in weights.items():
        for theirs, ours in NAMES.items():
            name = re.sub(theirs, ours, name)
        found[name] = value
    return found


def config(weights: Mapping[str, Tensor]) -> BlipVisionConfig:
    """The sizes of the transformer these are weights of, under their own names. Raises KeyError where one is lost."""
    width, _, patch, _ = weights["patch_embed.proj.weight"].shape
    side = math.isqrt(weights["pos_embed"].shape[1] - 1)
    blocks = {name.split(".")[1] for name in weights if name.startswith("blocks.")}
    return BlipVisionConfig(
        hidden_size=width,
        intermediate_size=len(weights["blocks.0.mlp.fc1.bias"]),
        num_hidden_layers=len(blocks),
        num_attention_heads=width // HEAD_WIDTH,
        image_size=side * patch,
        patch_size=patch,
        layer_norm_eps=EPS,
    )
