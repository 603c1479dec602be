"""VQAScore's question and answer in tokens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from transformers import T5Tokenizer

from evaluators._files import inside
from lpobench.plugin import UserError
from lpobench.weights import told

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions."
)
BEFORE = SYSTEM + " USER: "
AFTER = '\nDoes this figure show "{}"? Please answer yes or no. ASSISTANT: '
ANSWER = "Yes"
LONGEST = 2048
"""Tokens, the image counted as one; what is longer is cut."""


@dataclass(frozen=True)
class Questions:
    """Texts of one tokenizer; each ends with its end of text, the half before the image too."""

    tokenizer: T5Tokenizer

    @classmethod
    def read(cls, folder: Path, vocabulary: int) -> Self:
        """Raises MissingAsset or UserError."""
        file = inside(folder, "tokenizer.json")
        with told(file):
            tokenizer = T5Tokenizer.from_pretrained(folder, local_files_only=True)
        if len(tokenizer) > vocabulary:
            raise UserError(f"{file} has {len(tokenizer)} tokens, the T5 it is for has {vocabulary}")
        return cls(tokenizer)

    @property
    def vocabulary(self) -> int:
        """Tokens there are; FLAN-T5 has a few more logits, which the released code cuts off."""
        return len(self.tokenizer)

    @property
    def before(self) -> list[int]:
        """Of what precedes the image."""
        return self.tokenizer(BEFORE).input_ids

    @property
    def answer(self) -> list[int]:
        """Of Yes."""
        return self.tokenizer(ANSWER).input_ids

    def after(self, prompt: str) -> list[int]:
        """Of what follows the image."""
        return self.tokenizer(AFTER.format(prompt)).input_ids[: LONGEST - len(self.before) - 1]
