"""The released DPT-hybrid (dpt_hybrid-midas-501f0c75.pt) in transformers' classes: its sizes and its names.

theirs                                                 transformers' DPTForDepthEstimation
pretrained.model.patch_embed.backbone.stem             dpt.embeddings.backbone.bit.embedder
  .stages.i.blocks.j                                     .encoder.stages.i.layers.j
pretrained.model.{cls_token, pos_embed, patch_embed}   dpt.embeddings.{cls_token, position_embeddings, projection}
pretrained.model.blocks.i                              dpt.encoder.layer.i, qkv in three
pretrained.act_postprocess{3,4}.0, .3, .4              neck.reassemble_stage.{readout_projects, layers}.{2,3}
scratch.layer{1..4}_rn, refinenet{4..1}                neck.convs.{0..3}, neck.fusion_stage.layers.{0..3}
scratch.output_conv                                    head.head
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

from torch import Tensor
from transformers import DPTConfig

HEAD_WIDTH, GROUPS = 64, 32
"""Of attention, and of the ResNet's GroupNorms: no weight has it in its shape."""
EPS = 1e-6
"""Of the transformer's LayerNorms; transformers' own folder says 1e-12."""
MODEL, BIT = r"^pretrained\.model\.", "dpt.embeddings.backbone.bit."
Rule = str | Callable[[re.Match[str]], str]
RULES: dict[str, Rule] = {
    rf"{MODEL}patch_embed\.backbone\.stem\.conv": f"{BIT}embedder.convolution",
    rf"{MODEL}patch_embed\.backbone\.stem\.norm": f"{BIT}embedder.norm",
    rf"{MODEL}patch_embed\.backbone\.stages\.(\d+)\.blocks": rf"{BIT}encoder.stages.\1.layers",
    rf"{MODEL}patch_embed\.proj": "dpt.embeddings.projection",
    rf"{MODEL}cls_token": "dpt.embeddings.cls_token",
    rf"{MODEL}pos_embed": "dpt.embeddings.position_embeddings",
    rf"{MODEL}norm": "dpt.layernorm",
    rf"{MODEL}blocks": "dpt.encoder.layer",
    r"^(dpt\.encoder.*)\.norm1": r"\1.layernorm_before",
    r"^(dpt\.encoder.*)\.norm2": r"\1.layernorm_after",
    r"\.attn\.proj": ".attention.output.dense",
    r"\.mlp\.fc1": ".intermediate.dense",
    r"\.mlp\.fc2": ".output.dense",
    r"^pretrained\.act_postprocess(\d)\.0\.project": lambda m: (
        f"neck.reassemble_stage.readout_projects.{int(m[1]) - 1}"
    ),
    r"^pretrained\.act_postprocess(\d)\.3": lambda m: (
        f"neck.reassemble_stage.layers.{int(m[1]) - 1}.projection"
    ),
    r"^pretrained\.act_postprocess(\d)\.4": lambda m: f"neck.reassemble_stage.layers.{int(m[1]) - 1}.resize",
    r"^scratch\.layer(\d)_rn": lambda m: f"neck.convs.{int(m[1]) - 1}",
    r"^scratch\.refinenet(\d)": lambda m: f"neck.fusion_stage.layers.{4 - int(m[1])}",
    r"\.resConfUnit(\d)\.conv(\d)": r".residual_layer\1.convolution\2",
    r"\.out_conv": ".projection",
    r"^scratch\.output_conv": "head.head",
}


def renamed(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """By transformers' names."""
    found = {}
    for name, value in _in_three(weights):
        for theirs, ours in RULES.items():
            name = re.sub(theirs, ours, name)
        found[name] = value
    return found


def config_of(weights: Mapping[str, Tensor]) -> DPTConfig:
    """The sizes of the network these are weights of, under their own names. Raises KeyError where one is lost."""
    body, resnet = "pretrained.model.", "pretrained.model.patch_embed.backbone."
    width = weights[f"{body}cls_token"].shape[-1]
    stages = _count(weights, f"{resnet}stages.")
    widths = [len(weights[f"{resnet}stages.{stage}.blocks.0.conv3.weight"]) for stage in range(stages)]
    levels = [weights[f"scratch.layer{level}_rn.weight"] for level in range(1, 5)]
    bit = {
        "model_type": "bit",
        "embedding_size": len(weights[f"{resnet}stem.conv.weight"]),
        "hidden_sizes": widths,
        "depths": [_count(weights, f"{resnet}stages.{stage}.blocks.") for stage in range(stages)],
        "num_groups": GROUPS,
        "layer_type": "bottleneck",
        "global_padding": "same",
        "embedding_dynamic_padding": True,
        "out_features": [f"stage{stage + 1}" for stage in range(stages)],
    }
    return DPTConfig(
        is_hybrid=True,
        hidden_size=width,
        num_hidden_layers=_count(weights, f"{body}blocks."),
        num_attention_heads=width // HEAD_WIDTH,
        intermediate_size=len(weights[f"{body}blocks.0.mlp.fc1.bias"]),
        layer_norm_eps=EPS,
        backbone_featmap_shape=[1, widths[-1], 24, 24],
        neck_hidden_sizes=[level.shape[1] for level in levels],
        reassemble_factors=[1, 1, 1, 0.5],
        fusion_hidden_size=len(levels[0]),
        backbone_config=bit,
    )


def _in_three(weights: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Query, key and value apart."""
    for name, value in weights.items():
        if ".attn.qkv." in name:
            for part, some in zip(("query", "key", "value"), value.chunk(3), strict=True):
                yield name.replace(".attn.qkv.", f".attention.attention.{part}."), some
        else:
            yield name, value


def _count(weights: Mapping[str, Tensor], start: str) -> int:
    """How many modules are numbered after this start of a name."""
    return len({name.removeprefix(start).split(".")[0] for name in weights if name.startswith(start)})
