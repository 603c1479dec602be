"""BLIP-VQA's network, asked for yes or no: the probability of "yes" against "no" as the first word of its answer.

    picture    480 x 480, bicubic PIL, whatever its shape; OpenAI's mean and std
    question   lower case, less . ! " ( ) * # : ; ~, at most 50 words and 35 tokens; its first token is [ENC]
    answer     the decoder's first step after [DEC], attending to the question: p(yes) / (p(yes) + p(no))

Questions are not padded: transformers drops the mask that would hide the padding of the shorter ones.
LayerNorms of the eye have eps 1e-6. Read are the released file, and folders in transformers' layout.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForQuestionAnswering,
    BlipTextConfig,
    BlipTextLMHeadModel,
    BlipTextModel,
    BlipVisionModel,
)

from evaluators._blip import vision
from evaluators._blip.words import ASKS, START
from evaluators._files import fill, from_folder, inside, quiet
from evaluators._pixels import OPENAI_MEAN, OPENAI_STD, normalised, resized, to_bytes
from lpobench.plugin import UserError
from lpobench.weights import read_tensors, told

LENGTH, WORDS = 35, 50
"""Tokens and words of a question."""
MARKS = re.compile(r'[.!"()*#:;~]')
PARTS = {"visual_encoder.": "eye.", "text_encoder.": "text.", "text_decoder.": "answer."}
"""Start of a weight's name in the released file, and here."""


class Network(nn.Module):
    """An image tower, an encoder of questions that attends to it, and a decoder of answers that attends to that."""

    def __init__(self, eye: BlipVisionModel, text: BlipTextModel, answer: BlipTextLMHeadModel):
        super().__init__()
        self.eye, self.text, self.answer = eye, text, answer

    @property
    def image_size(self) -> int:
        return self.eye.config.image_size

    @property
    def vocabulary(self) -> int:
        return self.text.config.vocab_size

    @property
    def device(self) -> torch.device:
        return self.eye.device

    def look(self, pixels: Float[Tensor, "1 3 s s"]) -> Float[Tensor, "1 p d"]:
        """Of a prepared picture."""
        return self.eye(pixels).last_hidden_state

    def first_word(
        self, seen: Float[Tensor, "1 p d"], question: list[int], start: int
    ) -> Float[Tensor, " v"]:
        """Logits of the answer's first token."""
        ids = torch.tensor([question], device=seen.device)
        states = self.text(ids, encoder_hidden_states=seen).last_hidden_state
        return self.answer(ids.new_tensor([[start]]), encoder_hidden_states=states, use_cache=False).logits[
            0, 0
        ]


class Questioner:
    """A network and its words. One image, one question at a time: an answer does not depend on the others."""

    def __init__(self, network: Network, words: BertTokenizer):
        self.network, self.words = network, words
        yes_and_no = words.convert_tokens_to_ids(["yes", "no"])
        self.start, self.asks = words.convert_tokens_to_ids([START, ASKS])
        self.yes_and_no = torch.tensor(yes_and_no)

    @torch.no_grad()
    def agree(
        self, images: Float[Tensor, "n 3 H W"], questions: Sequence[Sequence[str]]
    ) -> list[list[float]]:
        """The probability of yes for each question about each image in [0, 1]."""
        pixels = prepared(images, self.network.image_size).to(self.network.device)
        return [self._answers(one[None], asked) for one, asked in zip(pixels, questions, strict=True)]

    def tokens(self, question: str) -> list[int]:
        """Ids of a question."""
        found = self.words(cleaned(question), truncation=True, max_length=LENGTH).input_ids
        return [self.asks, *found[1:]]

    def _answers(self, pixels: Float[Tensor, "1 3 s s"], questions: Sequence[str]) -> list[float]:
        if not questions:
            return []
        seen = self.network.look(pixels)
        return [self._yes(seen, question) for question in questions]

    def _yes(self, seen: Float[Tensor, "1 p d"], question: str) -> float:
        logits = self.network.first_word(seen, self.tokens(question), self.start)
        return logits[self.yes_and_no.to(logits.device)].double().softmax(0)[0].item()


def prepared(images: Float[Tensor, "n 3 H W"], side: int) -> Float[Tensor, "n 3 s s"]:
    """Of images in [0, 1]."""
    pictures = [
        resized(Image.fromarray(one), (side, side), Image.Resampling.BICUBIC) for one in to_bytes(images)
    ]
    return normalised(np.stack(pictures), OPENAI_MEAN, OPENAI_STD, images.device)


def cleaned(question: str) -> str:
    """As the released code prepares questions."""
    return " ".join(MARKS.sub("", question.lower()).rstrip(" ").split(" ")[:WORDS])


def read_network(place: Path) -> Network:
    """float32, on the CPU. Raises MissingAsset or UserError."""
    return _released(place) if place.is_file() else _folder(place)


def _released(file: Path) -> Network:
    weights = read_tensors(file)
    parts = {
        part: {name.removeprefix(theirs): value for name, value in weights.items() if name.startswith(theirs)}
        for theirs, part in PARTS.items()
    }
    try:
        sees = vision.config(parts["eye."])
        reads, answers = text_config(parts["text."], ""), text_config(parts["answer."], "bert.")
    except (KeyError, ValueError) as error:
        raise UserError(f"{file} holds no BLIP-VQA: {error}") from error
    parts["eye."] = vision.renamed(parts["eye."])
    with torch.device("meta"):
        network = Network(
            BlipVisionModel(sees), BlipTextModel(reads, add_pooling_layer=False), BlipTextLMHeadModel(answers)
        )
    named = {part + name: value for part, some in parts.items() for name, value in some.items()}
    fill(network, named, file, torch.float32)
    for model in (network.text, network.answer.bert):
        length = model.config.max_position_embeddings
        model.embeddings.position_ids = torch.arange(length)[None]  # of no use in a file
    return network


def text_config(weights: Mapping[str, Tensor], start: str) -> BlipTextConfig:
    """The sizes of the BERT these are weights of. Raises KeyError where one is lost."""
    vocabulary, width = weights[f"{start}embeddings.word_embeddings.weight"].shape
    layers = {name.split(".layer.")[1].split(".")[0] for name in weights if ".layer." in name}
    return BlipTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        encoder_hidden_size=weights[f"{start}encoder.layer.0.crossattention.self.key.weight"].shape[1],
        intermediate_size=len(weights[f"{start}encoder.layer.0.intermediate.dense.bias"]),
        num_hidden_layers=len(layers),
        num_attention_heads=width // vision.HEAD_WIDTH,
        max_position_embeddings=len(weights[f"{start}embeddings.position_embeddings.weight"]),
        layer_norm_eps=1e-12,
        is_decoder=True,
    )


def _folder(folder: Path) -> Network:
    inside(folder, "model.safetensors", "pytorch_model.bin")
    with told(inside(folder, "config.json")), quiet():
        config = BlipConfig.from_pretrained(folder, local_files_only=True)
    config.vision_config.layer_norm_eps = vision.EPS
    model = from_folder(BlipForQuestionAnswering, folder, config, "BLIP-VQA", torch.float32)
    model.requires_grad_(False).eval()
    return Network(model.vision_model, model.text_encoder, model.text_decoder)
