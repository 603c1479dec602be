"""LoRA keys of diffusers, PEFT and kohya's trainers, by the denoiser's own layer names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from diffusers.loaders import StableDiffusionXLLoraLoaderMixin
from diffusers.utils import convert_unet_state_dict_to_peft
from torch import Tensor, nn

KOHYA = ("lora_unet_", "lora_transformer_", "lora_te_", "lora_te1_", "lora_te2_", "lora_te3_")
SGM_BLOCKS = ("input_blocks", "middle_block", "output_blocks")
KOHYA_PARTS = {"lora_down.weight": "lora_A.weight", "lora_up.weight": "lora_B.weight"}
KEY = re.compile(r"(?P<layer>.+)\.(?:lora_(?P<half>[AB])(?:\.[^.]+)?\.weight|alpha)")


@dataclass
class LoraLayer:
    """What a LoRA adds to one layer's weight: alpha / rank * up @ down."""

    down: Tensor | None = None
    up: Tensor | None = None
    alpha: float | None = None


def lora_layers(
    denoiser: nn.Module, component: str, state: Mapping[str, Tensor]
) -> tuple[dict[str, LoraLayer], list[str]]:
    """Layers by name, and the keys that fit none; `component` is what pipelines call the denoiser."""
    names = {name for name, module in denoiser.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)}
    layers: dict[str, LoraLayer] = {}
    unmatched = []
    for key, value in _named(denoiser, component, state).items():
        match = KEY.fullmatch(key)
        if match is None or match["layer"] not in names:
            unmatched.append(key)
            continue
        layer = layers.setdefault(match["layer"], LoraLayer())
        if match["half"] is None:
            layer.alpha = float(value)
        elif match["half"] == "A":
            layer.down = value
        else:
            layer.up = value
    halves = [name for name, layer in layers.items() if layer.down is None or layer.up is None]
    return {name: layer for name, layer in layers.items() if name not in halves}, unmatched + halves


def _named(denoiser: nn.Module, component: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Keys as `layer.lora_A.weight`, `layer.lora_B.weight` and `layer.alpha`; unknown ones stay as they are."""
    if any(key.startswith(KOHYA) for key in state):
        sgm = any(block in key for key in state for block in SGM_BLOCKS)
        state = _from_sgm(denoiser, state) if sgm else _from_kohya(denoiser, state)
    strip = lambda key: key.removeprefix("base_model.model.").removeprefix(f"{component}.")
    return convert_unet_state_dict_to_peft({strip(key): value for key, value in state.items()})


def _from_kohya(denoiser: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """kohya's trainers write a layer's name with an underscore for every dot."""
    layers = {name.replace(".", "_"): name for name, _ in denoiser.named_modules()}
    named = {}
    for key, value in state.items():
        flat, _, part = key.partition(".")
        prefix = next((prefix for prefix in KOHYA[:2] if flat.startswith(prefix)), None)
        layer = layers.get(flat.removeprefix(prefix)) if prefix else None
        named[f"{layer}.{KOHYA_PARTS.get(part, part)}" if layer else key] = value
    return named


def _from_sgm(denoiser: nn.Module, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Their SDXL names are those of Stability AI's own code: diffusers knows the table. All or nothing."""
    if any("dora_scale" in key for key in state):  # it would drop them
        return state
    try:
        layers, alphas = StableDiffusionXLLoraLoaderMixin.lora_state_dict(
            dict(state), unet_config=denoiser.config
        )
    except (ValueError, KeyError, IndexError):
        return state
    halves = convert_unet_state_dict_to_peft(alphas or {})
    scales = {re.sub(r"(\.lora_A\.weight)?\.alpha$", ".alpha", key): value for key, value in halves.items()}
    return layers | {key: torch.tensor(value) for key, value in scales.items()}
