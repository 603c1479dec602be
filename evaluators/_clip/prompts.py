"""Prompts as CLIPs read them: their tokens, and embeddings that are made once."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from evaluators._batches import in_batches
from evaluators._files import inside
from lpobench.plugin import UserError
from lpobench.weights import told

Tokens = Int64[Tensor, "p length"]
Tokenizer = Callable[[list[str]], Tokens]
AT_ONCE, KEPT = 8, 4096
"""Prompts per forward pass, and embeddings that are kept."""


class PromptCache:
    """Embeddings by prompt. Each is made in a batch of one size and padding: it does not depend on the others."""

    def __init__(self, tokenize: Tokenizer, embed: Callable[[Tokens], Tensor]):
        self.tokenize, self.embed = tokenize, embed
        self.kept: OrderedDict[str, Tensor] = OrderedDict()

    def __call__(self, prompts: list[str]) -> Float[Tensor, "p d"]:
        """A row per prompt."""
        wanted = dict.fromkeys(prompts)
        found = {text: self.kept[text] for text in wanted if text in self.kept}
        if new := [text for text in wanted if text not in found]:
            found |= zip(new, in_batches(self.embed, AT_ONCE, self.tokenize(new)), strict=True)
        for text in wanted:
            self.kept[text] = found[text]
            self.kept.move_to_end(text)
        while len(self.kept) > KEPT:
            self.kept.popitem(last=False)
        return torch.stack([found[text] for text in prompts])


def folder_tokenizer(folder: Path, vocabulary: int, length: int) -> Tokenizer:
    """The tokenizer in a folder, as transformers reads it: cut to `length`, padded. Raises MissingAsset or UserError
    where there is none, or none of that vocabulary.
    """
    from transformers import CLIPTokenizer

    file = inside(folder, "tokenizer.json", "vocab.json")
    with told(file):
        tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    if len(tokenizer) != vocabulary:
        raise UserError(f"{file} has {len(tokenizer)} tokens, the CLIP it is for has {vocabulary}")
    fixed = {"padding": "max_length", "truncation": True, "max_length": length, "return_tensors": "pt"}
    return lambda prompts: tokenizer(prompts, **fixed).input_ids


def openai_tokenizer(vocabulary: int, length: int) -> Tokenizer:
    """OpenAI's, which open_clip ships: mends broken text and HTML, cuts at `length` with the end kept, pads with 0.
    Raises UserError for a CLIP of another vocabulary.
    """
    from open_clip import SimpleTokenizer

    logging.getLogger("open_clip").setLevel(logging.ERROR)
    tokenizer = SimpleTokenizer(context_length=length)
    if tokenizer.vocab_size != vocabulary:
        raise UserError(
            f"OpenAI's tokenizer has {tokenizer.vocab_size} tokens, the CLIP it is for has {vocabulary}"
        )
    return lambda prompts: tokenizer(prompts).long()
