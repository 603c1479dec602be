"""An SPM of the published size with random weights, with no download: for timing and memory."""

from __future__ import annotations

import copy

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from lpobench.types import Backbone
from rewards.lrm.text import TextBackbone
from rewards.spm.model import Preprocessing, StepAwareCLIP

VISION = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
    "hidden_act": "gelu",
}
TEXT = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "vocab_size": 49408,
    "hidden_act": "gelu",
}
PROJECTION = 1024
"""Of LAION's CLIP ViT-H/14, which PickScore and so the SPM started from."""
STD, NOISE = 0.02, 2**22 + 3
"""Random numbers drawn; longer weights repeat them."""


def random_spm(backbone: Backbone | TextBackbone, dtype: torch.dtype) -> StepAwareCLIP:
    """On the CPU, in `dtype` but for the logit scale; prompts are read by the backbone's first CLIP tokenizer."""
    model = empty(copy.deepcopy(backbone.tokenizer))
    _fill(model, dtype)
    return model.eval().requires_grad_(False)


def empty(tokenizer: CLIPTokenizer) -> StepAwareCLIP:
    """Its parameters are on the meta device."""
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = CLIPConfig(text_config={**TEXT, **special}, vision_config=VISION, projection_dim=PROJECTION)
    with init_empty_weights():
        return StepAwareCLIP(CLIPModel(config), tokenizer, Preprocessing(VISION["image_size"]))


def _fill(model: StepAwareCLIP, dtype: torch.dtype) -> None:
    """Norms at 1, biases at 0, the rest N(0, 0.02^2); exp(logit_scale) as a trained CLIP's, 100."""
    noise = (STD * torch.randn(NOISE, generator=torch.Generator().manual_seed(0))).to(dtype)
    for part in model.modules():
        for name, parameter in part.named_parameters(recurse=False):
            setattr(part, name, nn.Parameter(_values(name, parameter, noise)))
    model.clip.logit_scale = nn.Parameter(torch.tensor(100.0).log())


def _values(name: str, parameter: Tensor, noise: Tensor) -> Tensor:
    if parameter.ndim < 2 and name != "class_embedding":
        return torch.full(parameter.shape, float(name == "weight"), dtype=noise.dtype)
    values = torch.empty(parameter.numel(), dtype=noise.dtype)
    for piece in values.split(NOISE):
        piece.copy_(noise[: len(piece)])
    return values.view(parameter.shape)
