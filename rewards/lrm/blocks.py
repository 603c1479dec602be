"""The part of a denoiser an LRM looks through. What no score depends on is left out.

UNet     down and mid blocks: pooled features of each down block before its downsampler, and of mid
MMDiT    the first blocks: pooled image tokens after the last of them (LPO: layer 18 of SD3's 24)
"""

from __future__ import annotations

from typing import Protocol, Self

import torch
from diffusers import SD3Transformer2DModel, UNet2DConditionModel
from jaxtyping import Float
from torch import Tensor, nn

from lpobench.plugin import UserError
from lpobench.sampling.once import Once, before_text
from lpobench.weights import base_weights

Features = tuple[list[Float[Tensor, "text width"]], Float[Tensor, "n deep"]]
"""Features taken from text rows only, and the deepest, which VFE guides, of all rows; pooled."""

LATENT_PIXELS = 8
"""Pixels a latent's side stands for, in every supported autoencoder."""


class UNetBackbone(Protocol):
    unet: UNet2DConditionModel


class MMDiTBackbone(Protocol):
    transformer: SD3Transformer2DModel


class UNetBlocks(nn.Module):
    """SD 1.5's and SDXL's."""

    def __init__(self, unet: UNet2DConditionModel):
        super().__init__()
        self.unet, self.once = unet, Once(before_text(unet))
        channels = unet.config.block_out_channels
        self.feature_dim = sum(channels) + channels[-1]

    @classmethod
    def from_backbone(cls, backbone: UNetBackbone) -> Self:
        """A copy of the backbone's weights in float32."""
        unet, weights = empty_unet(backbone.unet.config), base_weights(backbone.unet)
        unet.load_state_dict({key: weights[key].float().clone() for key in unet.state_dict()}, assign=True)
        return cls(unet)

    def forward(
        self,
        latents: Float[Tensor, "n c h w"],
        t: Float[Tensor, " n"],
        context: Float[Tensor, "n tokens width"],
        pooled: Float[Tensor, "n pooled"],
        num_text: int,
    ) -> Features:
        """Rows after the first `num_text` are the same latents under other texts."""
        unet = self.unet
        temb = unet.time_embedding(unet.get_time_embed(latents, t))
        if unet.config.addition_embed_type == "text_time":
            added = {"text_embeds": pooled, "time_ids": _time_ids(latents)}
            temb = temb + unet.get_aug_embed(temb, context, added)
        hidden, shallow = unet.conv_in(latents), []
        with self.once.of_halves(len(latents) == 2 * num_text):
            for block in unet.down_blocks:
                hidden, states = block(hidden_states=hidden, temb=temb, encoder_hidden_states=context)
                shallow.append(states[len(block.resnets) - 1][:num_text].mean((2, 3)))
        return shallow, unet.mid_block(hidden, temb, encoder_hidden_states=context).mean((2, 3))


class MMDiTBlocks(nn.Module):
    """SD3's and SD3.5's."""

    def __init__(self, transformer: SD3Transformer2DModel):
        super().__init__()
        self.transformer = transformer
        self.feature_dim = transformer.inner_dim

    @classmethod
    def from_backbone(cls, backbone: MMDiTBackbone, layer: int | None = None) -> Self:
        """A copy in float32 of the blocks up to `layer`, counted from 1; by default three quarters."""
        source = backbone.transformer
        num_blocks = len(source.transformer_blocks)
        layer = max(1, num_blocks * 3 // 4) if layer is None else layer
        if layer > num_blocks:
            raise UserError(f"training.layer {layer}: backbone {backbone.name} has {num_blocks} blocks")
        transformer = empty_transformer({**source.config, "num_layers": layer})
        weights = base_weights(source)
        _drop_context_output(source, weights, layer)
        kept = {key: weights[key].float().clone() for key in transformer.state_dict()}
        transformer.load_state_dict(kept, assign=True)
        return cls(transformer)

    def forward(
        self,
        latents: Float[Tensor, "n c h w"],
        t: Float[Tensor, " n"],
        context: Float[Tensor, "n tokens width"],
        pooled: Float[Tensor, "n pooled"],
        num_text: int,
    ) -> Features:
        transformer = self.transformer
        hidden = transformer.pos_embed(latents).contiguous()
        temb = transformer.time_text_embed(t, pooled)
        context = transformer.context_embedder(context)
        for block in transformer.transformer_blocks:
            context, hidden = block(hidden_states=hidden, encoder_hidden_states=context, temb=temb)
        return [], hidden.mean(1)


Blocks = UNetBlocks | MMDiTBlocks


def empty_unet(config: dict) -> UNet2DConditionModel:
    """A UNet without up blocks and output layers, its parameters on the meta device."""
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(_portable(config))
    unet.up_blocks = nn.ModuleList()
    unet.conv_norm_out = unet.conv_act = unet.conv_out = None
    return unet


def empty_transformer(config: dict) -> SD3Transformer2DModel:
    """A transformer without output layers, its parameters on the meta device."""
    with torch.device("meta"):
        transformer = SD3Transformer2DModel.from_config(_portable(config))
    transformer.norm_out = transformer.proj_out = None
    return transformer


def _portable(config: dict) -> dict:
    """Without where it once lay, and which keys were defaults: diffusers would reset those."""
    return {key: value for key, value in config.items() if not key.startswith("_")}


def _drop_context_output(source: SD3Transformer2DModel, weights: dict[str, Tensor], layer: int) -> None:
    """Text tokens end in a transformer's last block, which only normalises them. A middle block that becomes
    the last one needs, of its six modulation vectors, the first two, in the order such a block has them.
    """
    last = f"transformer_blocks.{layer - 1}.norm1_context.linear."
    if source.transformer_blocks[layer - 1].context_pre_only:
        return
    for key in (last + "weight", last + "bias"):
        shift, scale, *_ = weights[key].chunk(6)
        weights[key] = torch.cat([scale, shift])


def _time_ids(latents: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 6"]:
    """(height, width) of the image, its crop at (0, 0), and the target size, which is the image's."""
    height, width = (LATENT_PIXELS * side for side in latents.shape[-2:])
    ids = latents.new_zeros((len(latents), 6), dtype=torch.float32)
    ids[:, 0::4], ids[:, 1::4] = height, width
    return ids
