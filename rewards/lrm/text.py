"""What an LRM knows of a prompt, one class per family; each part is named as in the family's pipeline folder.

    SD 1.5   CLIP's last states as context; its pooled state (W_t comes after it)
    SDXL     both encoders' penultimate states; the second one's projected text, as published without W_t
    SD3      the same of two CLIPs, then T5's states; pooled texts of all (ours: the paper names no more)

CLIPs of UNets are trained along, as released. SD3's encoders are frozen, as the paper says.
"""

from __future__ import annotations

import copy
from typing import NamedTuple, Protocol, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformers import (
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    PreTrainedTokenizerBase,
    T5EncoderModel,
)
from transformers.utils import ModelOutput


class Encoded(NamedTuple):
    """Prompts, one row each."""

    context: Float[Tensor, "p tokens width"]
    """What the blocks attend to."""
    pooled: Float[Tensor, "p pooled"]
    """What joins the timestep (SD 1.5: nothing does)."""
    feature: Float[Tensor, "p feature"]
    """What the visual feature is compared with, before W_t."""


class TextBackbone(Protocol):
    """What a backbone's text side is made of; SD 1.5 has no second encoder, only SD3 a third."""

    text_encoder: CLIPTextModel | CLIPTextModelWithProjection
    tokenizer: CLIPTokenizer
    text_encoder_2: CLIPTextModelWithProjection
    tokenizer_2: CLIPTokenizer
    text_encoder_3: T5EncoderModel | None
    tokenizer_3: PreTrainedTokenizerBase | None
    t5_tokens: int


class ClipText(nn.Module):
    """One CLIP."""

    projects = True

    def __init__(self, text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer):
        super().__init__()
        self.text_encoder, self.tokenizer = text_encoder, tokenizer
        self.feature_dim = self.projection_dim = text_encoder.config.hidden_size

    @classmethod
    def from_backbone(cls, backbone: TextBackbone) -> Self:
        return cls(_trainable(backbone.text_encoder), backbone.tokenizer)

    def tokenizers(self) -> dict[str, PreTrainedTokenizerBase]:
        return {"tokenizer": self.tokenizer}

    def forward(self, prompts: list[str]) -> Encoded:
        output = _read(self.text_encoder, self.tokenizer, prompts)
        return Encoded(output.last_hidden_state, output.pooler_output, output.pooler_output)


class TwoClips(nn.Module):
    """SDXL's pair. What lies behind the first one's penultimate layer is never read, and not trained."""

    projects = False

    def __init__(
        self,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        text_encoder_2: CLIPTextModelWithProjection,
        tokenizer_2: CLIPTokenizer,
    ):
        super().__init__()
        self.text_encoder, self.tokenizer = text_encoder, tokenizer
        self.text_encoder_2, self.tokenizer_2 = text_encoder_2, tokenizer_2
        self.feature_dim = self.projection_dim = text_encoder_2.config.projection_dim
        unread = text_encoder.encoder.layers[-1], text_encoder.final_layer_norm
        nn.ModuleList(unread).requires_grad_(False)

    @classmethod
    def from_backbone(cls, backbone: TextBackbone) -> Self:
        first, second = _trainable(backbone.text_encoder), _trainable(backbone.text_encoder_2)
        return cls(first, backbone.tokenizer, second, backbone.tokenizer_2)

    def tokenizers(self) -> dict[str, PreTrainedTokenizerBase]:
        return {"tokenizer": self.tokenizer, "tokenizer_2": self.tokenizer_2}

    def forward(self, prompts: list[str]) -> Encoded:
        first = _read(self.text_encoder, self.tokenizer, prompts)
        second = _read(self.text_encoder_2, self.tokenizer_2, prompts)
        context = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], -1)
        return Encoded(context, second.text_embeds, second.text_embeds)


class T5(NamedTuple):
    """A backbone's own: its 4.7 billion frozen weights are neither copied, moved nor stored."""

    encoder: T5EncoderModel
    tokenizer: PreTrainedTokenizerBase

    @classmethod
    def of(cls, backbone: TextBackbone) -> Self | None:
        return None if backbone.text_encoder_3 is None else cls(backbone.text_encoder_3, backbone.tokenizer_3)


class FrozenText(nn.Module):
    """SD3's two CLIPs and, where the backbone runs it, T5; without it zeros stand in its tokens' place."""

    projects = True

    def __init__(
        self,
        text_encoder: CLIPTextModelWithProjection,
        tokenizer: CLIPTokenizer,
        text_encoder_2: CLIPTextModelWithProjection,
        tokenizer_2: CLIPTokenizer,
        t5: T5 | None,
        *,
        t5_tokens: int,
        context_dim: int,
    ):
        super().__init__()
        self.text_encoder, self.tokenizer = text_encoder, tokenizer
        self.text_encoder_2, self.tokenizer_2 = text_encoder_2, tokenizer_2
        self.t5, self.t5_tokens, self.context_dim = t5, t5_tokens, context_dim
        self.t5_dim = t5.encoder.config.d_model if t5 else 0
        self.projection_dim = text_encoder.config.projection_dim + text_encoder_2.config.projection_dim
        self.feature_dim = self.projection_dim + self.t5_dim
        self.requires_grad_(False)

    @classmethod
    def from_backbone(cls, backbone: TextBackbone) -> Self:
        return cls(
            copy.deepcopy(backbone.text_encoder).float(),
            backbone.tokenizer,
            copy.deepcopy(backbone.text_encoder_2).float(),
            backbone.tokenizer_2,
            T5.of(backbone),
            t5_tokens=backbone.t5_tokens,
            context_dim=backbone.transformer.config.joint_attention_dim,
        )

    def tokenizers(self) -> dict[str, PreTrainedTokenizerBase]:
        return {"tokenizer": self.tokenizer, "tokenizer_2": self.tokenizer_2}

    def train(self, mode: bool = True) -> Self:
        """Frozen encoders stay in eval mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, prompts: list[str]) -> Encoded:
        first = _read(self.text_encoder, self.tokenizer, prompts)
        second = _read(self.text_encoder_2, self.tokenizer_2, prompts)
        clips = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], -1)
        clips = F.pad(clips, (0, self.context_dim - clips.shape[-1]))
        pooled = torch.cat([first.text_embeds, second.text_embeds], -1)
        if self.t5 is None:
            return Encoded(F.pad(clips, (0, 0, 0, self.t5_tokens)), pooled, pooled)
        states, mean = (value.to(clips) for value in _read_t5(self.t5, self.t5_tokens, prompts))
        return Encoded(torch.cat([clips, states], 1), pooled, torch.cat([pooled, mean], -1))


TextSide = ClipText | TwoClips | FrozenText


def _trainable(encoder: nn.Module) -> nn.Module:
    return copy.deepcopy(encoder).float().requires_grad_(True)


def _read(encoder: nn.Module, tokenizer: CLIPTokenizer, prompts: list[str]) -> ModelOutput:
    """Everything a CLIP makes of prompts, cut at the tokenizer's length."""
    fixed = {"padding": "max_length", "max_length": tokenizer.model_max_length, "truncation": True}
    tokens = tokenizer(prompts, return_tensors="pt", **fixed).input_ids.to(encoder.device)
    return encoder(tokens, output_hidden_states=True)


def _read_t5(
    t5: T5, num_tokens: int, prompts: list[str]
) -> tuple[Float[Tensor, "p tokens width"], Float[Tensor, "p width"]]:
    """T5's states, unmasked as SD3's pipeline reads them, and their mean over a prompt's own tokens."""
    fixed = {"padding": "max_length", "max_length": num_tokens, "truncation": True}
    tokens = t5.tokenizer(prompts, return_tensors="pt", **fixed).to(t5.encoder.device)
    states = t5.encoder(tokens.input_ids).last_hidden_state
    own = tokens.attention_mask[..., None].float()
    return states, (states.float() * own).sum(1) / own.sum(1)
