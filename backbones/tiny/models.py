"""The architectures of the embedded models, in stock diffusers and transformers classes."""

import json
from itertools import pairwise
from pathlib import Path

from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from lpobench.data.shapes.scene import COLORS, COUNTS, RELATIONS, SHAPES, SIZES

LATENT_SPACE = "tiny-vae-f8c8"
TEXT_LENGTH, TEXT_WIDTH = 16, 128


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


def text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """A three-layer CLIP text model, 0.6 M parameters."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=TEXT_LENGTH,
            projection_dim=TEXT_WIDTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def scheduler() -> DDIMScheduler:
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
