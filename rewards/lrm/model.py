"""LRM (LPO sec. 4.1, eq. 7-9; released LRM-1.5 and LRM-XL): the scoring network.

    v     = [pool(d_1), ..., pool(d_N), null + g (text - null)]
    score = exp(logit_scale) cos(W_v v, W_t text)

d_i: last feature of a down block, before its downsampler. text, null: pooled mid feature under the prompt and
under "" (VFE). Of an MMDiT there is only the guided feature; guiding it is ours, the paper is silent. LRM-XL
has no W_t.

Differs from the released code: blocks that no score depends on are dropped, not carried along; "" is encoded
once per batch, not once per pair; g = 1 skips the null rows; projections and scores are in float32, not
float16, in which scores near 20 are 0.016 apart.
"""

from __future__ import annotations

from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from diffusers import SD3Transformer2DModel
from jaxtyping import Float
from torch import Tensor, nn

from lpobench.plugin import UserError
from lpobench.types import Backbone
from rewards.lrm.blocks import Blocks, MMDiTBlocks, UNetBlocks
from rewards.lrm.text import ClipText, FrozenText, TextSide, TwoClips

INITIAL_LOGIT_SCALE = 2.6592  # ln(1 / 0.07), CLIP
HEAD_KEYS = ("visual_projection", "text_projection", "logit_scale")


class TextFeatures(NamedTuple):
    """Prompts as the network reads them, one row each."""

    context: Float[Tensor, "p tokens width"]
    pooled: Float[Tensor, "p pooled"]
    direction: Float[Tensor, "p projection"]
    """Projected, unit length, float32."""

    def rows(self, index: Tensor | int) -> TextFeatures:
        return TextFeatures(*(part[index] for part in self))


def check_denoiser(backbone: Backbone) -> None:
    """Raises UserError where there is no denoiser whose blocks are known here."""
    if getattr(backbone, "unet", None) is not None:
        return
    if getattr(backbone, "transformer", None) is None:
        raise UserError(f"reward lrm is built from a UNet or an MMDiT, backbone {backbone.name} has neither")
    if not isinstance(backbone.transformer, SD3Transformer2DModel):
        found = type(backbone.transformer).__name__
        raise UserError(
            f"reward lrm is built from a UNet or SD3's transformer, backbone {backbone.name} is a {found}; "
            "use a reward that reads images, such as pixel or spm"
        )


class LatentRewardModel(nn.Module):
    """Everything in it is trainable but an MMDiT's text encoders."""

    def __init__(self, blocks: Blocks, text: TextSide, vfe_scale: float):
        super().__init__()
        self.blocks, self.text, self.vfe_scale = blocks, text, vfe_scale
        self.visual_projection = nn.Linear(blocks.feature_dim, text.projection_dim, bias=False)
        self.text_projection = (
            nn.Linear(text.feature_dim, text.projection_dim, bias=False) if text.projects else None
        )
        self.logit_scale = nn.Parameter(torch.tensor(INITIAL_LOGIT_SCALE))
        nn.init.normal_(self.visual_projection.weight, std=0.02)
        if self.text_projection is not None:  # as in CLIP; pipelines lack its trained one
            nn.init.normal_(self.text_projection.weight, std=text.feature_dim**-0.5)

    @classmethod
    def from_backbone(cls, backbone: Backbone, vfe_scale: float, layer: int | None = None) -> Self:
        """Start from the backbone's weights, copied in float32. The new layers use the global generator."""
        has = lambda part: getattr(backbone, part, None) is not None
        check_denoiser(backbone)
        if layer is not None and not has("transformer"):
            raise UserError(
                f"training.layer {layer}: only an MMDiT has one to choose, {backbone.name} is a UNet"
            )
        if not has("text_encoder"):
            raise UserError(
                f"backbone {backbone.name} has released its text encoders, which a reward lrm starts from; "
                "set text_encoders to keep or offload"
            )
        if has("transformer"):
            blocks, text = MMDiTBlocks.from_backbone(backbone, layer), FrozenText.from_backbone(backbone)
        else:
            side = TwoClips if has("text_encoder_2") else ClipText
            blocks, text = UNetBlocks.from_backbone(backbone), side.from_backbone(backbone)
        return cls(blocks, text, vfe_scale)

    @property
    def device(self) -> torch.device:
        return self.logit_scale.device

    @property
    def is_mmdit(self) -> bool:
        return isinstance(self.blocks, MMDiTBlocks)

    def trainable(self) -> dict[str, nn.Parameter]:
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    def encode_prompts(self, prompts: list[str]) -> TextFeatures:
        """All prompts in one batch; pass "" along for the null context."""
        encoded = self.text(prompts)
        with torch.autocast(self.device.type, enabled=False):
            feature = encoded.feature.float()
            if self.text_projection is not None:
                feature = self.text_projection(feature)
            return TextFeatures(encoded.context, encoded.pooled, F.normalize(feature, dim=-1))

    def visual_features(
        self,
        latents: Float[Tensor, "n c h w"],
        t: Float[Tensor, " n"],
        text: TextFeatures,
        null: TextFeatures,
    ) -> Float[Tensor, "n features"]:
        """Pooled features; text rows and null rows go through the blocks in one batch, in this order.

        `null` is one row, without its first axis.
        """
        n, context, pooled = len(latents), text.context, text.pooled
        if self.vfe_scale != 1:
            latents, t = latents.repeat(2, 1, 1, 1), t.repeat(2)
            context = torch.cat([context, null.context.expand(n, -1, -1)])
            pooled = torch.cat([pooled, null.pooled.expand(n, -1)])
        shallow, deep = self.blocks(latents, t, context, pooled, n)
        deep = deep.float()
        if self.vfe_scale != 1:
            text_deep, null_deep = deep.chunk(2)
            deep = null_deep + self.vfe_scale * (text_deep - null_deep)
        return torch.cat([*(feature.float() for feature in shallow), deep], 1)

    def forward(
        self,
        latents: Float[Tensor, "n c h w"],
        t: Float[Tensor, " n"],
        text: TextFeatures,
        null: TextFeatures,
    ) -> Float[Tensor, " n"]:
        """Scores in float32, in [-exp(logit_scale), exp(logit_scale)]."""
        dtype = next(self.blocks.parameters()).dtype
        features = self.visual_features(latents.to(dtype), t, text, null)
        with torch.autocast(latents.device.type, enabled=False):
            visual = F.normalize(self.visual_projection(features), dim=-1)
            return self.logit_scale.exp() * (visual * text.direction).sum(-1)

    def cast_blocks(self, dtype: torch.dtype) -> Self:
        """The blocks and the text encoders in `dtype`; the head keeps float32."""
        for parameter in [*self.blocks.parameters(), *self.text.parameters()]:
            parameter.data = parameter.data.to(dtype)  # unet.to(dtype) would warn about nothing
        return self
