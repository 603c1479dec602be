"""BERT's tokenizer, as BLIP has it."""

from __future__ import annotations

from pathlib import Path

from transformers import BertTokenizer

from evaluators._files import inside
from lpobench.plugin import UserError
from lpobench.weights import told

START, ASKS = "[DEC]", "[ENC]"
"""BLIP's two tokens more: an answer begins with the first, a question with the second."""


def read_words(folder: Path, vocabulary: int) -> BertTokenizer:
    """Lower case. Raises MissingAsset, or UserError where a network of this vocabulary is of another."""
    file = inside(folder, "vocab.txt", "tokenizer.json")
    with told(file):
        words = BertTokenizer.from_pretrained(folder, local_files_only=True, do_lower_case=True)
    words.add_special_tokens({"bos_token": START, "additional_special_tokens": [ASKS]})
    if len(words) != vocabulary:
        raise UserError(
            f"{file} makes {len(words)} tokens with {START} and {ASKS}, the network has {vocabulary}"
        )
    return words
