"""A Stable Diffusion pipeline's weights under their original names, as single-file checkpoints have them."""

from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def write(pipeline: StableDiffusionPipeline, file: Path) -> Path:
    weights = {
        **_renamed(pipeline.unet, unet_names(pipeline.unet), "model.diffusion_model."),
        **_renamed(pipeline.vae, vae_names(pipeline.vae), "first_stage_model."),
        **_renamed(pipeline.text_encoder, {"": "text_model"}, "cond_stage_model.transformer."),
    }
    save_file(weights, file)
    return file


def unet_names(unet) -> dict[str, str]:
    """Module -> its original name: blocks are counted through, layer by layer."""
    names = {
        "conv_in": "input_blocks.0.0",
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
        **_resnet("mid_block.resnets.0", "middle_block.0"),
        "mid_block.attentions.0": "middle_block.1",
        **_resnet("mid_block.resnets.1", "middle_block.2"),
    }
    for side, blocks, place in (("input", unet.down_blocks, 1), ("output", unet.up_blocks, 0)):
        kind, sampler = ("down", "downsamplers") if side == "input" else ("up", "upsamplers")
        for i, block in enumerate(blocks):
            attended = len(getattr(block, "attentions", ()))
            for j in range(len(block.resnets)):
                here, ours = f"{side}_blocks.{place}", f"{kind}_blocks.{i}"
                names |= _resnet(f"{ours}.resnets.{j}", f"{here}.0")
                if attended:
                    names[f"{ours}.attentions.{j}"] = f"{here}.1"
                place += 1
            if getattr(block, sampler):
                if side == "input":
                    names[f"{ours}.{sampler}.0.conv"] = f"input_blocks.{place}.0.op"
                    place += 1
                else:
                    names[f"{ours}.{sampler}.0.conv"] = f"{here}.{2 if attended else 1}.conv"
    return names


def vae_names(vae) -> dict[str, str]:
    names = {part: part for part in ("quant_conv", "post_quant_conv")}
    for coder, blocks in (("encoder", vae.encoder.down_blocks), ("decoder", vae.decoder.up_blocks)):
        kind, last = ("down", 0) if coder == "encoder" else ("up", len(blocks) - 1)
        for part in ("conv_in", "conv_out"):
            names[f"{coder}.{part}"] = f"{coder}.{part}"
        names[f"{coder}.conv_norm_out"] = f"{coder}.norm_out"
        for i, block in enumerate(blocks):
            ours, theirs = f"{coder}.{kind}_blocks.{i}", f"{coder}.{kind}.{abs(last - i)}"
            for j in range(len(block.resnets)):
                names[f"{ours}.resnets.{j}"] = f"{theirs}.block.{j}"
                names[f"{ours}.resnets.{j}.conv_shortcut"] = f"{theirs}.block.{j}.nin_shortcut"
            names[f"{ours}.{kind}samplers.0.conv"] = f"{theirs}.{kind}sample.conv"
        for j in (0, 1):
            names[f"{coder}.mid_block.resnets.{j}"] = f"{coder}.mid.block_{j + 1}"
        for ours, theirs in VAE_ATTENTION.items():
            names[f"{coder}.mid_block.attentions.0.{ours}"] = f"{coder}.mid.attn_1.{theirs}"
    return names


def _resnet(ours: str, theirs: str) -> dict[str, str]:
    return {f"{ours}.{a}": f"{theirs}.{b}" for a, b in RESNET.items()}


def _renamed(module: torch.nn.Module, names: dict[str, str], prefix: str) -> dict[str, torch.Tensor]:
    """Each weight under the longest module name that it begins with."""
    renamed = {}
    for key, value in module.state_dict().items():
        ours = max((name for name in names if key.startswith(f"{name}.") or not name), key=len)
        rest = key.removeprefix(f"{ours}.") if ours else key
        if ours.endswith(tuple(f"attentions.0.{part}" for part in ("to_q", "to_k", "to_v", "to_out.0"))):
            value = value[..., None, None] if rest == "weight" else value  # a 1 x 1 convolution there
        renamed[f"{prefix}{names[ours]}.{rest}"] = value.clone().contiguous()
    return renamed
