"""Trained weights as a stock pipeline reads them, and the proof that it does: an adapter, or the whole denoiser."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from diffusers.training_utils import _collate_lora_metadata
from diffusers.utils import convert_state_dict_to_diffusers
from peft.tuners.lora import LoraLayer
from peft.utils import get_peft_model_state_dict
from torch import Tensor, nn

from backbones._diffusers.parts import load_part, quiet

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from backbones._diffusers.base import LatentDiffusion

TOLERANCE, HALF_TOLERANCE = 1e-4, 2e-2
"""Root mean square of the difference over that of the output, in float32 and in half precision."""


@torch.no_grad()
def export_lora(backbone: LatentDiffusion, folder: Path) -> None:
    """Write `pytorch_lora_weights.safetensors` with its metadata, load it into a stock pipeline and compare.

    Raises RuntimeError when the pipeline's denoiser has other adapters than the trained one, or another output.
    """
    layers = get_peft_model_state_dict(backbone.denoiser)
    if backbone.component == "unet":  # diffusers' older names, known to more programs; there are none for SD3
        layers = convert_state_dict_to_diffusers(layers)
    stock = _stock(backbone)
    metadata = _collate_lora_metadata({backbone.component: backbone.denoiser})
    type(stock).save_lora_weights(folder, **{f"{backbone.component}_lora_layers": layers}, **metadata)
    with quiet():
        stock.load_lora_weights(folder)
    reloaded = getattr(stock, backbone.component)
    _check_adapters(backbone.denoiser, reloaded)
    _check_output(backbone, reloaded, "LoRA")


@torch.no_grad()
def export_denoiser(backbone: LatentDiffusion, folder: Path) -> None:
    """Write `<folder>/unet`, or `transformer`, as diffusers has it, load it into a stock pipeline and compare.

    Raises RuntimeError when the pipeline's denoiser has other weights than the trained one, or another output.
    """
    ours, place = backbone.denoiser, folder / backbone.component
    ours.save_pretrained(place)
    read = load_part(type(ours).from_pretrained, place, dtype=backbone.dtype, use_safetensors=True)
    reloaded = getattr(_stock(backbone, **{backbone.component: read}), backbone.component)
    theirs = reloaded.state_dict()
    for name, weight in ours.state_dict().items():
        if name not in theirs or not torch.equal(weight, theirs[name]):
            raise RuntimeError(
                f"the exported denoiser differs from the trained policy in {name}, in a stock pipeline"
            )
    _check_output(backbone, reloaded, "denoiser")


def _stock(backbone: LatentDiffusion, **parts: nn.Module) -> DiffusionPipeline:
    """A stock pipeline that needs no more of the base: with a fresh denoiser, unless one is given."""
    tokenizers = [name.replace("text_encoder", "tokenizer") for name in backbone.encoders]
    left_out = dict.fromkeys([*backbone.encoders, *tokenizers])
    return backbone.stock_pipeline(vae=backbone.vae, **parts, **left_out)


def _check_adapters(ours: nn.Module, theirs: nn.Module) -> None:
    trained, reloaded = _adapters(ours), _adapters(theirs)
    for name, (down, up, scale) in trained.items():
        same = name in reloaded and scale == reloaded[name][2]
        for mine, other in zip((down, up), reloaded.get(name, ())[:2], strict=False):
            same = same and torch.allclose(mine.to(other), other)
        if not same:
            raise RuntimeError(
                f"the exported LoRA differs from the trained policy in {name}, in a stock pipeline"
            )


def _adapters(model: nn.Module) -> dict[str, tuple[Tensor, Tensor, float]]:
    """The active adapter of every adapted layer: both matrices and their scale."""
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, LoraLayer)}
    active = {name: layer.active_adapters[0] for name, layer in layers.items()}
    return {
        name: (
            layer.lora_A[active[name]].weight,
            layer.lora_B[active[name]].weight,
            layer.scaling[active[name]],
        )
        for name, layer in layers.items()
    }


def _check_output(backbone: LatentDiffusion, reloaded: nn.Module, what: str) -> None:
    stock = copy.copy(backbone)
    setattr(stock, backbone.component, reloaded)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn((2, *backbone.latent_shape), generator=generator).to(backbone.device)
    t, text = torch.tensor([51.0, 951.0], device=backbone.device), backbone.probe()
    ours, theirs = (model.predict(latents, t, text).float() for model in (backbone, stock))
    error = ((ours - theirs).square().mean() / ours.square().mean()).sqrt().item()
    if not error <= (TOLERANCE if backbone.dtype == torch.float32 else HALF_TOLERANCE):
        raise RuntimeError(
            f"the exported {what}'s output differs from the trained policy's by {error:.2g} of it, in a stock pipeline"
        )
