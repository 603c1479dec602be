"""Making a DiNa-LRM of a backbone, and writing and reading its folder (its layout: config.py).

Ours holds safetensors only: the head, and the adapter by the names of the transformer's layers.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import SD3Transformer2DModel
from torch import Tensor

from lpobench.plugin import UserError
from lpobench.sampling.schedule import RectifiedFlow
from lpobench.types import Backbone
from lpobench.weights import read_state, write_weights
from rewards.dina.config import CONFIG, HEAD, LORA, DiNaConfig, read_config, weight_files
from rewards.dina.head import Head, Logistic
from rewards.dina.model import DiNaModel
from rewards.dina.text import TransformerBackbone
from rewards.dina.trunk import Depth, Trunk

log = logging.getLogger(__name__)

PEFT_PREFIX = "base_model.model."


def check_transformer(backbone: Backbone) -> None:
    """Raises UserError where there is no SD3 transformer on a rectified flow to look through."""
    if not isinstance(backbone.denoiser, SD3Transformer2DModel):
        found = type(backbone.denoiser).__name__
        raise UserError(
            f"reward dina looks through an SD3 transformer, backbone {backbone.name} is a {found}"
        )
    if not isinstance(backbone.schedule, RectifiedFlow):
        raise UserError(f"reward dina reads a rectified flow, which backbone {backbone.name} is not on")


def check_backbone(config: DiNaConfig, backbone: TransformerBackbone) -> None:
    """Raises UserError where a DiNa-LRM was trained on another backbone, or on other text."""
    reads, makes = config.latent_space, backbone.latent_space
    if reads != makes:
        raise UserError(f"reward dina reads latents of {reads}, backbone {backbone.name} makes {makes}")
    check_transformer(backbone)
    if config.backbone != backbone.name:
        raise UserError(
            f"this DiNa-LRM adapts the weights of {config.backbone}, the backbone is {backbone.name}"
        )
    trained, here = config.t5_tokens, t5_tokens(backbone)
    if trained is None or trained == here:
        return
    if not trained or not here:
        state = "with" if trained else "without"
        raise UserError(
            f"this DiNa-LRM was trained {state} T5; set backbone.t5 to {'device' if trained else 'off'}"
        )
    log.warning("reward dina was trained on %d tokens of T5, backbone.t5_tokens is %d", trained, here)


def t5_tokens(backbone: TransformerBackbone) -> int:
    """Text tokens that T5 makes; 0 where zeros stand in their place."""
    return backbone.t5_tokens if backbone.text_encoder_3 is not None else 0


def build(
    config: DiNaConfig, backbone: TransformerBackbone, *, shared: bool, layers: list[str] | None = None
) -> DiNaModel:
    """Untrained, on the backbone's device; new weights are drawn from the global generator. `layers`: the adapted."""
    trunk = Trunk(
        backbone.denoiser, Depth(config.layers, config.visual_taps, config.text_taps), shared=shared
    )
    trunk.adapt(config.rank, config.alpha, layers)
    head = Head(trunk.width, len(config.visual_taps), len(config.text_taps), **config.head.model_dump())
    return DiNaModel(trunk, head, Logistic() if config.logistic else None)


def save(model: DiNaModel, folder: Path, config: DiNaConfig, dtype: torch.dtype) -> None:
    """Write the folder in `dtype`, config.json last."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).unlink(missing_ok=True)
    for name, weights in ((HEAD, _head(model)), (LORA, model.trunk.adapter())):
        write_weights({key: value.detach().to(dtype) for key, value in weights.items()}, folder / name)
    (folder / CONFIG).write_text(config.model_dump_json(indent=2) + "\n")


def load(
    folder: Path, backbone: TransformerBackbone, *, shared: bool, logistic: bool | None = None
) -> DiNaModel:
    """Read a folder, ours or released, float32. UserError names the file that is wrong, and its keys.

    `logistic` overrides whether there is one; one that was not trained is at its start.
    """
    config, files = read_config(folder), weight_files(folder)
    head, lora = _read(files["head"]), _read(files["lora"])
    lora = {key.removeprefix(PEFT_PREFIX): value for key, value in lora.items()}
    layers = sorted({key.partition(".lora_")[0] for key in lora})
    _check_layers(files["lora"], layers, backbone, config.layers)
    with torch.random.fork_rng(devices=[]):
        model = build(config, backbone, shared=shared, layers=layers)
    _fill(_head(model), head, files["head"])
    _fill(model.trunk.adapter(), lora, files["lora"])
    if logistic is not None and logistic != config.logistic:
        model.logistic = Logistic() if logistic else None
    return model


def _head(model: DiNaModel) -> dict[str, Tensor]:
    """What head.safetensors holds: the head, named as released, and what the logistic has learnt."""
    learnt = {} if model.logistic is None else model.logistic.state_dict(prefix="logistic.")
    return {**model.head.state_dict(), **learnt}


def _check_layers(path: Path, layers: list[str], backbone: TransformerBackbone, num_blocks: int) -> None:
    blocks = tuple(f"transformer_blocks.{number}." for number in range(num_blocks))
    known = {name.replace(".base_layer", "") for name, _ in backbone.denoiser.named_modules()}
    if unknown := [name for name in layers if name not in known or not name.startswith(blocks)]:
        raise UserError(
            f"{path} adapts {len(unknown)} layers that the first {num_blocks} blocks of {backbone.name} lack: "
            f"{_some(unknown)}"
        )


@torch.no_grad()
def _fill(weights: Mapping[str, Tensor], found: Mapping[str, Tensor], path: Path) -> None:
    """Copy a file into weights, all of it into all of them. Raises UserError naming what is left over."""
    missing, unexpected = sorted(weights.keys() - found.keys()), sorted(found.keys() - weights.keys())
    problems = [
        f"{len(names)} {word}: {_some(names)}"
        for word, names in (("missing", missing), ("unexpected", unexpected))
        if names
    ]
    if not problems:
        others = [key for key, value in weights.items() if value.shape != found[key].shape]
        problems = [
            f"{key} is {list(found[key].shape)}, not {list(weights[key].shape)}" for key in others[:3]
        ]
    if problems:
        raise UserError(f"{path} does not fit: {'; '.join(problems)}")
    for key, value in weights.items():
        value.copy_(found[key])


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file. Raises UserError."""
    found = read_state(path)
    if not all(isinstance(value, Tensor) for value in found.values()):
        raise UserError(f"{path} should hold tensors by name")
    return found


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
