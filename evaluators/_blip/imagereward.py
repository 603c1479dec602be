"""ImageReward's network and the reader of its released files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from transformers import BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

from evaluators._batches import in_batches
from evaluators._blip import vision
from evaluators._blip.words import read_words
from evaluators._files import fill, inside, read_json
from evaluators._head import affine_mlp
from evaluators._pixels import Preparation
from lpobench.plugin import UserError
from lpobench.weights import read_tensors

MEAN, STD = 0.16717362830052426, 1.0333394966054072
"""Of the head's output over the images it was trained on."""
LENGTH = 35
"""Tokens of a prompt."""
Tokens = Int64[Tensor, "n 2 length"]
"""Ids, and 1 where there is a token, 0 where there is padding."""
FILES = ("ImageReward.pt", "ImageReward.safetensors")
PARTS = {"blip.visual_encoder.": "eye.", "blip.text_encoder.": "text.", "mlp.layers.": "head."}
"""Start of a weight's name in the released file, and here."""


class Network(nn.Module):
    """An image tower, a text encoder that attends to it, and a head."""

    def __init__(self, sees: BlipVisionConfig, reads: BlipTextConfig):
        super().__init__()
        self.eye, self.text = BlipVisionModel(sees), BlipTextModel(reads, add_pooling_layer=False)
        self.head = affine_mlp(reads.hidden_size)
        self.prepare = Preparation(sees.image_size, "round")

    @property
    def vocabulary(self) -> int:
        return self.text.config.vocab_size

    def score(self, images: Float[Tensor, "n 3 H W"], tokens: Tokens, batch_size: int) -> Float[Tensor, " n"]:
        """Standardised rewards, float32."""
        some = self.head[0].weight
        pixels = self.prepare(images).to(some.device, some.dtype)
        return in_batches(self, batch_size, pixels, tokens.to(some.device))

    def forward(self, pixels: Float[Tensor, "n 3 s s"], tokens: Tokens) -> Float[Tensor, " n"]:
        """Of prepared pictures."""
        ids, mask = tokens.unbind(1)
        seen = self.eye(pixels).last_hidden_state
        read = self.text(ids, attention_mask=mask, encoder_hidden_states=seen).last_hidden_state
        return (self.head(read[:, 0]).squeeze(1).float() - MEAN) / STD


def read_network(folder: Path, dtype: torch.dtype) -> Network:
    """On the CPU. Raises MissingAsset or UserError."""
    file = inside(folder, *FILES)
    reads = text_config(inside(folder, "med_config.json"))
    weights = read_tensors(file)
    parts = {
        part: {name.removeprefix(theirs): value for name, value in weights.items() if name.startswith(theirs)}
        for theirs, part in PARTS.items()
    }
    try:
        sees = vision.config(parts["eye."])
    except (KeyError, ValueError) as error:
        raise UserError(f"{file} holds no vision transformer of BLIP: {error}") from error
    reads.encoder_hidden_size = sees.hidden_size
    parts["eye."] = vision.renamed(parts["eye."])
    with torch.device("meta"):
        network = Network(sees, reads)
    fill(
        network,
        {part + name: value for part, some in parts.items() for name, value in some.items()},
        file,
        dtype,
    )
    return network


def text_config(path: Path) -> BlipTextConfig:
    """Of BLIP's med_config.json. Its encoder_width is not read: the released code overwrites it. Raises UserError."""
    found = read_json(path)
    same = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    same += ("max_position_embeddings", "hidden_act", "layer_norm_eps", "pad_token_id")
    if lost := [name for name in same if name not in found]:
        raise UserError(f"{path} has no {lost[0]}")
    unused = {"bos_token_id": None, "eos_token_id": None, "sep_token_id": None}
    return BlipTextConfig(**{name: found[name] for name in same}, **unused, is_decoder=True)


def tokenizer(folder: Path, vocabulary: int) -> Callable[[list[str]], Tokens]:
    """BERT's, with BLIP's two tokens more. Raises MissingAsset or UserError."""
    found = read_words(folder, vocabulary)
    fixed = {"padding": "max_length", "truncation": True, "max_length": LENGTH, "return_tensors": "pt"}

    def tokenize(prompts: list[str]) -> Tokens:
        read = found(prompts, **fixed)
        return torch.stack([read.input_ids, read.attention_mask], 1)

    return tokenize
