"""Published or own checkpoints put onto a loaded denoiser: LoRA layers, merged in, or a whole set of its weights.

Nothing is half loaded: a key that fits no layer is an error, and so is a layer of another size.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from diffusers import SD3Transformer2DModel, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_unet_checkpoint,
    convert_sd3_transformer_checkpoint_to_diffusers,
)
from peft.utils.other import get_pattern_key
from torch import Tensor

from backbones._diffusers.lora_keys import LoraLayer, lora_layers
from backbones._diffusers.weights_file import Config, WeightsFile, find_weights, read_weights
from lpobench.plugin import UserError

if TYPE_CHECKING:
    from backbones._diffusers.base import LatentDiffusion

State = dict[str, Tensor]
Changes = Iterable[tuple[Tensor, Tensor]]
"""Weights and what they shall be."""
ORIGINAL = "model.diffusion_model."
"""What the denoiser's keys start with in Stability AI's own single files, which are converted for its models alone."""


@torch.no_grad()
def load_checkpoint(backbone: LatentDiffusion, path: Path, *, check_only: bool = False) -> str:
    """Change the denoiser's weights in place, or only see if one could; returns in one line what is loaded.

    `path` is a file (safetensors, or a pickle of tensors alone) or a folder that holds one. Raises UserError when a
    key or a size does not fit this denoiser, MissingAsset when there is no file; the weights are then untouched.
    """
    if any(parameter.requires_grad for parameter in backbone.denoiser.parameters()):
        raise UserError(f"checkpoint {path}: {backbone.name} is being trained; load it before that")
    found = find_weights(path, backbone.component)
    state = read_weights(found)
    plan = _merged_lora if any("lora" in key for key in state) else _whole_denoiser
    told, changes = plan(backbone, found, state)
    if not check_only:
        for weight, value in changes:
            weight.copy_(value)
    return told


def _merged_lora(backbone: LatentDiffusion, found: WeightsFile, state: State) -> tuple[str, Changes]:
    layers, unmatched = lora_layers(backbone.denoiser, backbone.component, state)
    _refuse_unmatched(backbone, found, len(layers), unmatched)
    config = {key.removeprefix(f"{backbone.component}."): value for key, value in found.config.items()}
    stated = bool(config) or all(layer.alpha is not None for layer in layers.values())
    scales = _scales(layers, config, found)
    weights = {name: backbone.denoiser.get_submodule(name).weight for name in layers}
    _refuse_sizes(
        backbone, found, [name for name, layer in layers.items() if not _fits(layer, weights[name])]
    )
    changes = ((weights[name], _merged(weights[name], layers[name], scales[name])) for name in layers)
    ranks, alphas = (
        _span(values) for values in zip(*((len(x.down), x.alpha) for x in layers.values()), strict=True)
    )
    alphas = alphas if stated else "not stated and so the rank"
    return f"LoRA on {len(layers)} layers, rank {ranks}, alpha {alphas}, from {found.path.name}", changes


def _merged(weight: Tensor, layer: LoraLayer, scale: float) -> Tensor:
    """float32; a convolution's two are those of a matrix over its flattened window."""
    up, down = (half.to(weight.device).float().flatten(1) for half in (layer.up, layer.down))
    return weight.float() + scale * (up @ down).view_as(weight)


def _scales(layers: Mapping[str, LoraLayer], config: Config, found: WeightsFile) -> dict[str, float]:
    """alpha / rank by layer; alpha from beside the matrices, else from the settings, else the rank."""
    if config.get("use_dora"):
        raise UserError(
            f"{found.path} is a DoRA, whose weights are not merged here; merge it into a denoiser first"
        )
    patterns = config.get("alpha_pattern") or {}
    for name, layer in layers.items():
        if layer.alpha is None:
            default = config.get("lora_alpha", len(layer.down))
            layer.alpha = float(patterns.get(get_pattern_key(patterns.keys(), name), default))
    root = math.sqrt if config.get("use_rslora") else float
    return {name: layer.alpha / root(len(layer.down)) for name, layer in layers.items()}


def _fits(layer: LoraLayer, weight: Tensor) -> bool:
    return (
        len(layer.up) == len(weight)
        and layer.up[0].numel() == len(layer.down)
        and layer.down[0].numel() == weight[0].numel()
    )


def _whole_denoiser(backbone: LatentDiffusion, found: WeightsFile, state: State) -> tuple[str, Changes]:
    ours, theirs = backbone.denoiser.state_dict(), _own_names(backbone, found, state)
    unmatched = [key for key in theirs if key not in ours]
    _refuse_unmatched(backbone, found, len(theirs) - len(unmatched), unmatched)
    if missing := [key for key in ours if key not in theirs]:
        raise UserError(
            f"checkpoint {found.path} lacks {len(missing)} of {len(ours)} weights of {backbone.name}'s "
            f"{backbone.component}: {_some(missing)}"
        )
    _refuse_sizes(backbone, found, [key for key in ours if ours[key].shape != theirs[key].shape])
    changes = ((weight, theirs[key]) for key, weight in ours.items())
    return f"all {len(ours)} weights of the {backbone.component}, from {found.path.name}", changes


def _own_names(backbone: LatentDiffusion, found: WeightsFile, state: State) -> State:
    """diffusers' names, without the pipeline's word for the denoiser."""
    original = {key: value for key, value in state.items() if key.startswith(ORIGINAL)}
    if not original or not isinstance(backbone.denoiser, UNet2DConditionModel | SD3Transformer2DModel):
        return {key.removeprefix(f"{backbone.component}."): value for key, value in state.items()}
    try:
        if backbone.component == "unet":
            return convert_ldm_unet_checkpoint(original, backbone.denoiser.config)
        return convert_sd3_transformer_checkpoint_to_diffusers(original)
    except (KeyError, IndexError, ValueError) as error:
        raise UserError(
            f"checkpoint {found.path} is of another model than {backbone.name}: no key {error}"
        ) from error


def _refuse_unmatched(
    backbone: LatentDiffusion, found: WeightsFile, matched: int, unmatched: list[str]
) -> None:
    where = f"the {backbone.component} of {backbone.name}"
    if not matched:
        raise UserError(f"checkpoint {found.path}: no key matches {where}; it holds {_some(unmatched)}")
    if unmatched:
        raise UserError(
            f"checkpoint {found.path}: {len(unmatched)} keys match nothing in {where}: {_some(unmatched)}"
        )


def _refuse_sizes(backbone: LatentDiffusion, found: WeightsFile, names: list[str]) -> None:
    if names:
        raise UserError(
            f"checkpoint {found.path} is of another size than {backbone.name}'s {backbone.component}: {_some(names)}"
        )


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _span(values: Iterable[float]) -> str:
    """One value, or the smallest and the largest."""
    return "-".join(f"{value:g}" for value in sorted({min(values), max(values)}))
