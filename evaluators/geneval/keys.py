"""OpenMMLab's Mask2Former under the names of Hugging Face's, and its sizes read off its shapes.

mmdet 2.x stores Swin's query, key and value stacked, and the four neighbours that a downsampling merges in the
order of `nn.Unfold`; both are undone here. Every tensor is used but the indices of Swin's relative positions, which
follow from the window, and the loss's class weights.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor
from transformers import Mask2FormerConfig, SwinConfig

Weights = Mapping[str, Tensor]

UNUSED = re.compile(r".*\.relative_position_index|.*\.class_weight")
LEVELS, POINTS = 3, 4
"""Of deformable attention, in every published Mask2Former."""
SWIN, PIXELS = "model.pixel_level_module.encoder", "model.pixel_level_module.decoder"
DECODER = "model.transformer_module"
BLOCK = rf"{SWIN}.swin.encoder.layers.\1.blocks.\2"
ENCODER_LAYER, DECODER_LAYER = rf"{PIXELS}.encoder.layers.\1", rf"{DECODER}.decoder.layers.\1"
STAGES = r"backbone\.stages\.(\d+)\.blocks\.(\d+)"
HEAD = r"panoptic_head"
ENCODER = rf"{HEAD}\.pixel_decoder\.encoder\.layers\.(\d+)"
LAYERS = rf"{HEAD}\.transformer_decoder\.layers\.(\d+)"

RENAMED = [
    (r"backbone\.patch_embed\.projection", rf"{SWIN}.swin.embeddings.patch_embeddings.projection"),
    (r"backbone\.patch_embed\.norm", rf"{SWIN}.swin.embeddings.norm"),
    (rf"{STAGES}\.norm1", rf"{BLOCK}.layernorm_before"),
    (rf"{STAGES}\.norm2", rf"{BLOCK}.layernorm_after"),
    (rf"{STAGES}\.attn\.w_msa\.proj", rf"{BLOCK}.attention.o_proj"),
    (
        rf"{STAGES}\.attn\.w_msa\.(relative_position_bias_table)",
        rf"{BLOCK}.attention.relative_position_bias.\3",
    ),
    (rf"{STAGES}\.ffn\.layers\.0\.0", rf"{BLOCK}.mlp.fc1"),
    (rf"{STAGES}\.ffn\.layers\.1", rf"{BLOCK}.mlp.fc2"),
    (rf"{HEAD}\.pixel_decoder\.input_convs\.(\d+)\.conv", rf"{PIXELS}.input_projections.\1.0"),
    (rf"{HEAD}\.pixel_decoder\.input_convs\.(\d+)\.gn", rf"{PIXELS}.input_projections.\1.1"),
    (rf"{ENCODER}\.attentions\.0", rf"{ENCODER_LAYER}.self_attn"),
    (rf"{ENCODER}\.ffns\.0\.layers\.0\.0", rf"{ENCODER_LAYER}.fc1"),
    (rf"{ENCODER}\.ffns\.0\.layers\.1", rf"{ENCODER_LAYER}.fc2"),
    (rf"{ENCODER}\.norms\.0", rf"{ENCODER_LAYER}.self_attn_layer_norm"),
    (rf"{ENCODER}\.norms\.1", rf"{ENCODER_LAYER}.final_layer_norm"),
    (rf"{HEAD}\.pixel_decoder\.level_encoding\.weight", rf"{PIXELS}.level_embed"),
    (rf"{HEAD}\.pixel_decoder\.lateral_convs\.0\.conv", rf"{PIXELS}.adapter_1.0"),
    (rf"{HEAD}\.pixel_decoder\.lateral_convs\.0\.gn", rf"{PIXELS}.adapter_1.1"),
    (rf"{HEAD}\.pixel_decoder\.output_convs\.0\.conv", rf"{PIXELS}.layer_1.0"),
    (rf"{HEAD}\.pixel_decoder\.output_convs\.0\.gn", rf"{PIXELS}.layer_1.1"),
    (rf"{HEAD}\.pixel_decoder\.mask_feature", rf"{PIXELS}.mask_projection"),
    (rf"{LAYERS}\.attentions\.0\.attn", rf"{DECODER_LAYER}.cross_attn"),
    (rf"{LAYERS}\.attentions\.1\.attn\.out_proj", rf"{DECODER_LAYER}.self_attn.out_proj"),
    (rf"{LAYERS}\.ffns\.0\.layers\.0\.0", rf"{DECODER_LAYER}.fc1"),
    (rf"{LAYERS}\.ffns\.0\.layers\.1", rf"{DECODER_LAYER}.fc2"),
    (rf"{LAYERS}\.norms\.0", rf"{DECODER_LAYER}.cross_attn_layer_norm"),
    (rf"{LAYERS}\.norms\.1", rf"{DECODER_LAYER}.self_attn_layer_norm"),
    (rf"{LAYERS}\.norms\.2", rf"{DECODER_LAYER}.final_layer_norm"),
    (rf"{HEAD}\.transformer_decoder\.post_norm", rf"{DECODER}.decoder.layernorm"),
    (rf"{HEAD}\.query_embed", rf"{DECODER}.queries_embedder"),
    (rf"{HEAD}\.query_feat", rf"{DECODER}.queries_features"),
    (rf"{HEAD}\.level_embed", rf"{DECODER}.level_embed"),
    (rf"{HEAD}\.cls_embed", "class_predictor"),
    *(
        (rf"{HEAD}\.mask_embed\.{2 * i}", rf"{DECODER}.decoder.mask_predictor.mask_embedder.{i}.0")
        for i in range(3)
    ),
]
SPLIT = [
    (rf"{STAGES}\.attn\.w_msa\.qkv\.(weight|bias)", rf"{BLOCK}.attention.{{}}_proj.\3"),
    (rf"{LAYERS}\.attentions\.1\.attn\.in_proj_(weight|bias)", rf"{DECODER_LAYER}.self_attn.{{}}_proj.\2"),
]
"""Query, key and value, stacked along the first axis."""
NORMED = re.compile(r"backbone\.norm(\d)\.(weight|bias)")
MERGED = re.compile(r"backbone\.stages\.(\d+)\.downsample\.(reduction|norm)\.(weight|bias)")


def renamed(weights: Weights) -> dict[str, Tensor]:
    """The weights under their new names, and those that only training or another network reads.

    Raises KeyError for a name that no Mask2Former of mmdet has.
    """
    found = {
        new: value
        for name, old in weights.items()
        if not UNUSED.fullmatch(name)
        for new, value in _one(name, old)
    }
    width = len(found[f"{SWIN}.hidden_states_norms.stage4.bias"])
    found |= {f"{SWIN}.swin.layernorm.weight": torch.ones(width)}
    found |= {f"{SWIN}.swin.layernorm.bias": torch.zeros(width)}
    found["criterion.empty_weight"] = torch.ones_like(found["class_predictor.bias"], device="cpu")
    found["criterion.empty_weight"][-1] = 0.1
    return {name: value.clone(memory_format=torch.contiguous_format) for name, value in found.items()}


def _one(name: str, value: Tensor) -> Iterator[tuple[str, Tensor]]:
    for pattern, new in SPLIT:
        if match := re.fullmatch(pattern, name):
            for part, one in zip("qkv", value.chunk(3), strict=True):
                yield match.expand(new).format(part), one
            return
    if match := NORMED.fullmatch(name):
        yield f"{SWIN}.hidden_states_norms.stage{int(match[1]) + 1}.{match[2]}", value
    elif match := MERGED.fullmatch(name):
        yield match.expand(rf"{SWIN}.swin.encoder.layers.\1.downsample.\2.\3"), _as_merged(value)
    else:
        yield _renamed(name), value


def _renamed(name: str) -> str:
    for pattern, new in RENAMED:
        if match := re.match(rf"{pattern}(?=[._]|$)", name):
            return match.expand(new) + name[match.end() :]
    raise KeyError(name)


def _as_merged(value: Tensor) -> Tensor:
    """From Unfold's order, channel by channel (rows slower), to neighbour by neighbour (columns slower)."""
    channels = value.unflatten(-1, (-1, 4))
    return channels[..., [0, 2, 1, 3]].transpose(-1, -2).flatten(-2)


def config_of(weights: Weights) -> Mask2FormerConfig:
    """The sizes of the network that these shapes belong to. Raises KeyError."""
    count = lambda pattern: len({m[1] for name in weights if (m := re.match(pattern, name))})
    shape = lambda name: tuple(weights[name].shape)
    stages = count(r"backbone\.stages\.(\d+)\.")
    tables = [
        shape(f"backbone.stages.{i}.blocks.0.attn.w_msa.relative_position_bias_table") for i in range(stages)
    ]
    queries, width = shape("panoptic_head.query_feat.weight")
    encoder = "panoptic_head.pixel_decoder.encoder.layers"
    decoder = "panoptic_head.transformer_decoder.layers"
    offsets, _ = shape(f"{encoder}.0.attentions.0.sampling_offsets.weight")
    backbone = SwinConfig(
        embed_dim=shape("backbone.patch_embed.norm.bias")[0],
        depths=[count(rf"backbone\.stages\.{i}\.blocks\.(\d+)\.") for i in range(stages)],
        num_heads=[heads for _, heads in tables],
        window_size=(round(tables[0][0] ** 0.5) + 1) // 2,
        drop_path_rate=0.3,
        out_features=[f"stage{i + 1}" for i in range(stages)],
    )
    return Mask2FormerConfig(
        backbone_config=backbone,
        num_labels=shape("panoptic_head.cls_embed.bias")[0] - 1,
        num_queries=queries,
        feature_size=width,
        mask_feature_size=shape("panoptic_head.pixel_decoder.mask_feature.bias")[0],
        hidden_dim=width,
        num_attention_heads=offsets // (2 * LEVELS * POINTS),
        encoder_layers=count(rf"{encoder}\.(\d+)\."),
        encoder_feedforward_dim=shape(f"{encoder}.0.ffns.0.layers.1.weight")[1],
        decoder_layers=count(rf"{decoder}\.(\d+)\.") + 1,
        dim_feedforward=shape(f"{decoder}.0.ffns.0.layers.1.weight")[1],
    )
