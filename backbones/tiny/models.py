"""The architectures of the embedded models, in stock diffusers and transformers classes."""

import json
from itertools import pairwise
from pathlib import Path

from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from backbones.tiny.local_attention import look_at_neighbours
from lpobench.data.shapes.scene import COLORS, COUNTS, RELATIONS, SHAPES, SIZES

LATENT_SPACE = "tiny-vae-f8c8"
TEXT_LENGTH, TEXT_WIDTH = 16, 128
JOINT_WIDTH, T5_TOKENS = 256, 4
"""tiny-sd3's text tokens: their width, and the zero tokens that stand where T5's would (`max_sequence_length`)."""


def vae() -> AutoencoderKL:
    """64 x 64 pixels to 8 x 8 x 8 latents, 0.95 M parameters."""
    channels = (16, 32, 64, 64)
    return AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * len(channels),
        up_block_types=["UpDecoderBlock2D"] * len(channels),
        block_out_channels=channels,
        latent_channels=8,
        norm_num_groups=4,
        sample_size=64,
        scaling_factor=1.0,
        mid_block_add_attention=False,
    )


def unet() -> UNet2DConditionModel:
    """6.1 M parameters on 8 x 8 x 8 latents; attention at both of the finer resolutions, as in SD1.5."""
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=8,
        out_channels=8,
        block_out_channels=(64, 96, 160),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def unet_xl() -> UNet2DConditionModel:
    """5.6 M parameters; attention at the coarser resolution only, two transformer layers deep, as in SDXL."""
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=8,
        out_channels=8,
        block_out_channels=(64, 128),
        layers_per_block=1,
        transformer_layers_per_block=(1, 2),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=192,
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        norm_num_groups=16,
        addition_embed_type="text_time",
        addition_time_embed_dim=32,
        projection_class_embeddings_input_dim=128 + 6 * 32,
    )


def transformer() -> SD3Transformer2DModel:
    """3.5 M parameters on 64 tokens, one per latent pixel, query and key normalised as in SD3.5.

    Modulations and output begin at zero, as DiT's do, and most heads at a neighbour.
    """
    made = SD3Transformer2DModel(
        sample_size=8,
        patch_size=1,
        in_channels=8,
        out_channels=8,
        num_layers=6,
        attention_head_dim=16,
        num_attention_heads=8,
        joint_attention_dim=JOINT_WIDTH,
        caption_projection_dim=128,
        pooled_projection_dim=64 + 128,
        pos_embed_max_size=8,
        qk_norm="rms_norm",
    )
    look_at_neighbours(made)
    zeroed = ("norm1.linear", "norm1_context.linear", "norm_out", "proj_out")
    for name, parameter in made.named_parameters():
        if any(part in name for part in zeroed):
            nn.init.zeros_(parameter)
    return made


def text_encoder(tokenizer: CLIPTokenizer, width: int = TEXT_WIDTH) -> CLIPTextModel:
    """A three-layer CLIP text model, 0.6 M parameters at width 128."""
    return CLIPTextModel(_text_config(tokenizer, width))


def projected_text_encoder(tokenizer: CLIPTokenizer, width: int) -> CLIPTextModelWithProjection:
    """The same with a pooled, projected output."""
    return CLIPTextModelWithProjection(_text_config(tokenizer, width))


def _text_config(tokenizer: CLIPTokenizer, width: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=3,
        num_attention_heads=width // 32,
        max_position_embeddings=TEXT_LENGTH,
        projection_dim=width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def ddim_scheduler() -> DDIMScheduler:
    """The schedule of SD1.5, sampled as the LPO release samples it: 951, 901, ..., 1."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def flow_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """The schedule of SD3."""
    return FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=3.0)


def words() -> list[str]:
    """Every word a shapes-world prompt can hold."""
    relations = {word for relation in RELATIONS for word in relation.split()}
    return [
        "a",
        "and",
        *sorted(relations),
        *SIZES,
        *COUNTS.values(),
        *SHAPES,
        *(f"{s}s" for s in SHAPES),
        *COLORS,
    ]


def tokenizer(folder: Path) -> CLIPTokenizer:
    """A real byte-pair CLIP vocabulary in which every word of the grammar is one token; written to `folder`.

    Learnt by hand, because a trainer breaks ties between equally frequent pairs differently in every process. A
    merge added later never comes before an earlier one, so what a word needs stays what it needs.
    """
    letters = "abcdefghijklmnopqrstuvwxyz"
    merges: list[tuple[str, str]] = []
    for word in words():
        pieces = _split(word, merges)
        while len(pieces) > 1:
            merges.append((pieces[0], pieces[1]))
            pieces = [pieces[0] + pieces[1], *pieces[2:]]
    joined = ["".join(pair) for pair in merges]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *joined, "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(
        json.dumps({token: i for i, token in enumerate(dict.fromkeys(tokens))})
    )
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *map(" ".join, merges)]) + "\n")
    made = CLIPTokenizer.from_pretrained(folder, model_max_length=TEXT_LENGTH)
    made.save_pretrained(folder)
    return made


def _split(word: str, merges: list[tuple[str, str]]) -> list[str]:
    """Byte-pair encoding of a word: always the earliest merge that applies."""
    pieces = [*word[:-1], f"{word[-1]}</w>"]
    while True:
        pairs = list(pairwise(pieces))
        known = [merges.index(pair) for pair in pairs if pair in merges]
        if not known:
            return pieces
        at = pairs.index(merges[min(known)])
        pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]
