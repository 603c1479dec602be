"""SPM (SPO sec. 3.2, released code): a CLIP whose vision tower is told the timestep.

    c      = W_2 silu(W_1 [cos(t f), sin(t f)])           f_i = 10000^(-i / 128), i < 128
    layer  x + gate * attention(norm(x) * (1 + scale) + shift), then the same with the MLP
    image  norm(x_cls) * (1 + scale) + shift, projected
    score  = exp(logit_scale) cos(image, text)

Each (shift, scale, gate) is linear in silu(c), AdaLN as in DiT. Weights start at 0 and biases at 0, those of gates
at 1: the start is the CLIP itself. Text is CLIP's own, and does not know t.

Differs from the released code: sinusoids, unit vectors and scores are in float32 whatever the towers are in; a text
is encoded once, not once per candidate and step.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformers import CLIPModel, CLIPTokenizer
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

FREQUENCIES = 256
"""Size of the sinusoidal embedding, cosines and sines together."""


@dataclass(frozen=True)
class Preprocessing:
    """From images in [0, 1] to a CLIP's pixels: short side to `size`, middle square, normalised."""

    size: int
    mean: tuple[float, float, float] = tuple(OPENAI_CLIP_MEAN)
    std: tuple[float, float, float] = tuple(OPENAI_CLIP_STD)

    @classmethod
    def read(cls, path: Path, size: int) -> Self:
        """Mean and std of a preprocessor_config.json; CLIP's own where there is none."""
        if not path.is_file():
            return cls(size)
        found = json.loads(path.read_text(encoding="utf-8"))
        return cls(size, tuple(found["image_mean"]), tuple(found["image_std"]))

    def __call__(self, images: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n 3 s s"]:
        """Bicubic without antialiasing, clamped before and after, as in the released training; the released SPO
        resizes first. Differentiable.
        """
        images = images.float().clamp(0, 1)
        short = min(images.shape[-2:])
        if short != self.size:
            sides = [int(side * self.size / short + 0.5) for side in images.shape[-2:]]
            images = F.interpolate(images, sides, mode="bicubic", align_corners=False).clamp(0, 1)
        top, left = ((side - self.size) // 2 for side in images.shape[-2:])
        images = images[..., top : top + self.size, left : left + self.size]
        mean, std = (images.new_tensor(value).view(3, 1, 1) for value in (self.mean, self.std))
        return (images - mean) / std


class StepAwareCLIP(nn.Module):
    """Everything in it is trainable."""

    def __init__(self, clip: CLIPModel, tokenizer: CLIPTokenizer, preprocessing: Preprocessing):
        """New layers are drawn from the global generator."""
        super().__init__()
        self.clip, self.tokenizer, self.preprocessing = clip, tokenizer, preprocessing
        width = clip.config.vision_config.hidden_size
        self.time = nn.Sequential(nn.Linear(FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))
        self.layers = nn.ModuleList(
            nn.Linear(width, 6 * width) for _ in range(clip.config.vision_config.num_hidden_layers)
        )
        self.final = nn.Linear(width, 2 * width)
        for layer in (self.time[0], self.time[2]):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        for modulation in (*self.layers, self.final):
            nn.init.zeros_(modulation.weight)
            nn.init.zeros_(modulation.bias)
        for modulation in self.layers:
            modulation.bias.data.view(2, 3, width)[:, 2] = 1  # gates

    @property
    def device(self) -> torch.device:
        return self.clip.logit_scale.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the towers."""
        return self.final.weight.dtype

    def trainable(self) -> dict[str, nn.Parameter]:
        return dict(self.named_parameters())

    def encode_prompts(self, prompts: list[str]) -> Float[Tensor, "p projection"]:
        """Unit vectors, float32; prompts are cut at the tokenizer's length."""
        length = min(self.tokenizer.model_max_length, self.clip.config.text_config.max_position_embeddings)
        fixed = {"padding": "max_length", "max_length": length, "truncation": True}
        tokens = self.tokenizer(prompts, return_tensors="pt", **fixed).input_ids.to(self.device)
        return F.normalize(self.clip.get_text_features(tokens).pooler_output.float(), dim=-1)

    def encode_images(
        self, images: Float[Tensor, "n 3 H W"], t: Float[Tensor, " n"]
    ) -> Float[Tensor, "n projection"]:
        """Unit vectors, float32, of images in [0, 1] at timesteps t."""
        vision, told = self.clip.vision_model, F.silu(self.time(timestep_embedding(t).to(self.dtype)))
        hidden = vision.pre_layrnorm(vision.embeddings(self.preprocessing(images).to(self.dtype)))
        for layer, modulation in zip(vision.encoder.layers, self.layers, strict=True):
            shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = modulation(told)[:, None].chunk(6, -1)
            seen = layer.layer_norm1(hidden) * (1 + scale) + shift
            hidden = hidden + gate * layer.self_attn(seen)[0]
            seen = layer.layer_norm2(hidden) * (1 + mlp_scale) + mlp_shift
            hidden = hidden + mlp_gate * layer.mlp(seen)
        shift, scale = self.final(told).chunk(2, -1)
        pooled = vision.post_layernorm(hidden[:, 0]) * (1 + scale) + shift
        return F.normalize(self.clip.visual_projection(pooled).float(), dim=-1)

    def forward(
        self, images: Float[Tensor, "n 3 H W"], t: Float[Tensor, " n"], text: Float[Tensor, "n projection"]
    ) -> Float[Tensor, " n"]:
        """Scores in float32, in [-exp(logit_scale), exp(logit_scale)]; `text` from encode_prompts."""
        seen = self.encode_images(images, t)
        with torch.autocast(images.device.type, enabled=False):
            return self.clip.logit_scale.exp() * (seen * text).sum(-1)

    def cast_towers(self, dtype: torch.dtype) -> Self:
        """Everything but the logit scale in `dtype`."""
        scale = self.clip.logit_scale
        for parameter in self.parameters():
            if parameter is not scale:
                parameter.data = parameter.data.to(dtype)
        return self


def timestep_embedding(t: Float[Tensor, " n"]) -> Float[Tensor, "n 256"]:
    """Cosines, then sines, of t at 128 frequencies from 1 down to nearly 1 / 10000, in float32."""
    half = FREQUENCIES // 2
    frequencies = torch.exp(-math.log(10_000) * torch.arange(half, device=t.device) / half)
    angles = t.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], -1)
