"""Writing and reading an LRM's folder (its layout: config.py). Ours holds safetensors only."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from diffusers import SD3Transformer2DModel, UNet2DConditionModel
from torch import Tensor, nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    PreTrainedModel,
)

from lpobench.plugin import UserError
from lpobench.types import Backbone
from lpobench.weights import fill, read_state, tensors_of, told, write_weights
from rewards.lrm.blocks import Blocks, MMDiTBlocks, UNetBlocks, empty_transformer, empty_unet
from rewards.lrm.config import CONFIG, HEAD, LRMConfig, part_file, read_config, weight_files
from rewards.lrm.model import HEAD_KEYS, LatentRewardModel
from rewards.lrm.text import T5, ClipText, FrozenText, TextSide, TwoClips


def parts(model: LatentRewardModel) -> dict[str, nn.Module]:
    """Everything but the head, by the name of its subfolder."""
    return dict([*model.blocks.named_children(), *model.text.named_children()])


def save(model: LatentRewardModel, folder: Path, config: LRMConfig, dtype: torch.dtype) -> None:
    """Write the folder: parts in `dtype`, the head in float32, config.json last."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).unlink(missing_ok=True)
    for name, tokenizer in model.text.tokenizers().items():
        tokenizer.save_pretrained(folder / name)
    for name, part in parts(model).items():
        if isinstance(part, PreTrainedModel):
            part.config.save_pretrained(folder / name)
        else:
            part.save_config(folder / name)
        rounded = {key: parameter.detach().to(dtype) for key, parameter in part.named_parameters()}
        write_weights(part.state_dict() | rounded, folder / part_file(name))
    head = {key: value for key, value in model.state_dict().items() if key.startswith(HEAD_KEYS)}
    write_weights(head, folder / HEAD)
    (folder / CONFIG).write_text(config.model_dump_json(indent=2) + "\n")


def load(folder: Path, vfe_scale: float | None = None, backbone: Backbone | None = None) -> LatentRewardModel:
    """Read a folder, ours or released: CPU, float32. UserError names the file that is wrong.

    `backbone`: whose T5 is read with, where the LRM was trained with one, and whose tokenizers, where the
    folder has none.
    """
    config = read_config(folder)
    with torch.random.fork_rng(devices=[]):
        blocks, text = _empty_blocks(folder, config), _empty_text(folder, config, backbone)
        model = LatentRewardModel(blocks, text, config.vfe_scale if vfe_scale is None else vfe_scale)
    files = weight_files(folder, config)
    for name, part in parts(model).items():
        fill(part, _read(files[name]), files[name], torch.float32)
    head = {key for key in model.state_dict() if key.startswith(HEAD_KEYS)}
    fill(model, _read(files["head"]), files["head"], torch.float32, head)
    return model


def _empty_blocks(folder: Path, config: LRMConfig) -> Blocks:
    if config.is_mmdit:
        return MMDiTBlocks(empty_transformer(SD3Transformer2DModel.load_config(folder / "transformer")))
    return UNetBlocks(empty_unet(UNet2DConditionModel.load_config(folder / "unet")))


def _empty_text(folder: Path, config: LRMConfig, backbone: Backbone | None) -> TextSide:
    """Text encoders of the right sizes, and the tokenizers."""
    first = CLIPTextModelWithProjection if config.is_mmdit else CLIPTextModel
    clips = [_clip(first, folder, "", backbone)]
    if "text_encoder_2" in config.parts:
        clips.append(_clip(CLIPTextModelWithProjection, folder, "_2", backbone))
    if config.is_mmdit:
        width = SD3Transformer2DModel.load_config(folder / "transformer")["joint_attention_dim"]
        t5 = _t5(config, folder, backbone)
        return FrozenText(*clips[0], *clips[1], t5, t5_tokens=config.t5_tokens, context_dim=width)
    return TwoClips(*clips[0], *clips[1]) if len(clips) == 2 else ClipText(*clips[0])


def _clip(
    cls: type[PreTrainedModel], folder: Path, suffix: str, backbone: Backbone | None
) -> tuple[PreTrainedModel, CLIPTokenizer]:
    """A text encoder yet to be filled, and its tokenizer."""
    config = CLIPTextConfig.from_pretrained(folder / f"text_encoder{suffix}")
    return cls(config).eval(), _tokenizer(folder, suffix, config.vocab_size, backbone)


def _tokenizer(folder: Path, suffix: str, vocabulary: int, backbone: Backbone | None) -> CLIPTokenizer:
    """The folder's; released ones have none, and take the backbone's, the first as SD 1.5 and XL pad it."""
    name = f"tokenizer{suffix}"
    if (folder / name).is_dir():
        return CLIPTokenizer.from_pretrained(folder / name, local_files_only=True)
    tokenizer = copy.deepcopy(getattr(backbone, name, None))
    if tokenizer is None or len(tokenizer) != vocabulary:
        raise UserError(
            f"{folder} has no {name}/, and the backbone has none of its vocabulary, {vocabulary} tokens"
        )
    if not suffix:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _t5(config: LRMConfig, folder: Path, backbone: Backbone | None) -> T5 | None:
    if not config.t5_dim:
        return None
    if (encoder := getattr(backbone, "text_encoder_3", None)) is None:
        raise UserError(
            f"the LRM in {folder} was trained with T5, which the backbone does not run (or has released)"
        )
    if encoder.config.d_model != config.t5_dim:
        raise UserError(
            f"the LRM in {folder} reads a T5 of width {config.t5_dim}, the backbone's has {encoder.config.d_model}"
        )
    return T5(encoder, backbone.tokenizer_3)


def _read(path: Path) -> dict[str, Tensor]:
    """Weights by the names they have today."""
    state = read_state(path)
    if isinstance(state.get("visual_projection"), dict):
        with told(path):
            return _flat_head(state)
    weights = tensors_of(state, path)
    if path.parent.name == "text_encoder" and not any(key == "text_projection.weight" for key in weights):
        return {key.removeprefix("text_model."): value for key, value in weights.items()}
    return weights


def _flat_head(weights: dict[str, object]) -> dict[str, Tensor]:
    """state_dict.pt: layers as dictionaries; the scale a tensor (1.5) or a number (XL)."""
    layers = {
        f"{name}.{key}": value
        for name, layer in weights.items()
        if isinstance(layer, dict)
        for key, value in layer.items()
    }
    return layers | {"logit_scale": torch.as_tensor(weights["logit_scale"])}
