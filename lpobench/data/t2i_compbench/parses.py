"""Noun chunks and parts of speech of the 2,400 published prompts: what a parser made of them, once.

Scores depend on the version of spaCy's model, so it is not run: parses.tsv keeps what it said, without the prompts
themselves. make_parses.py makes such a table with any model.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, get_args

from lpobench.plugin import MissingAsset, UserError

Kind = Literal["n", "p", "a", "o"]
"""Part of speech: noun, proper noun, adjective, any other."""
TABLE = Path(__file__).with_name("parses.tsv")
CODE = re.compile(r"\[|\]|(\d+)([a-z])")


@dataclass(frozen=True)
class Token:
    """A word or a mark, and where it stands in its text."""

    start: int
    end: int
    kind: Kind


@dataclass(frozen=True)
class Parse:
    """A text, its tokens, and its noun chunks: first token, and the one after the last."""

    text: str
    tokens: tuple[Token, ...]
    chunks: tuple[tuple[int, int], ...] = ()

    def span(self, first: int, last: int) -> str:
        """The text of some tokens, with the spaces between them; of fewer where the text ends before."""
        some = self.tokens[first:last]
        return self.text[some[0].start : some[-1].end]

    def of_kinds(self, kinds: str, first: int = 0, last: int | None = None) -> list[str]:
        """The words of some kinds, from one token up to another."""
        return [
            self.text[token.start : token.end] for token in self.tokens[first:last] if token.kind in kinds
        ]

    @property
    def code(self) -> str:
        """`[1o5n]4o`: lengths and kinds of the tokens, brackets around noun chunks."""
        opens, closes = {first for first, _ in self.chunks}, {last for _, last in self.chunks}
        parts = []
        for place, token in enumerate(self.tokens):
            parts += ["]"] * (place in closes) + ["["] * (place in opens)
            parts.append(f"{token.end - token.start}{token.kind}")
        return "".join(parts + ["]"] * (len(self.tokens) in closes))

    @classmethod
    def decode(cls, text: str, code: str) -> Parse:
        """The parse of a text from its code. Raises ValueError where they do not fit together."""
        tokens, chunks, place, first = [], [], 0, 0
        for mark in CODE.finditer(code):
            if mark[0] == "[":
                first = len(tokens)
            elif mark[0] == "]":
                chunks.append((first, len(tokens)))
            else:
                start = place + len(text[place:]) - len(text[place:].lstrip())
                place = start + int(mark[1])
                tokens.append(Token(start, place, _kind(mark[2])))
        if "".join(mark[0] for mark in CODE.finditer(code)) != code or place != len(text.rstrip()):
            raise ValueError(f"the parse {code} is of another text than {text!r}")
        return cls(text, tuple(tokens), tuple(chunks))


@dataclass(frozen=True)
class Row:
    """What a table says of one prompt."""

    category: str
    parts: tuple[str, ...]
    """Of a complex prompt: what it is scored for."""
    code: str


@dataclass(frozen=True)
class Parses:
    """A table: the parser's model, and a row per prompt."""

    model: str
    rows: dict[str, Row]
    """By `digest` of the prompt."""

    @classmethod
    def read(cls, path: Path) -> Parses:
        """Raises MissingAsset and UserError."""
        try:
            head, *lines = path.read_text(encoding="utf-8").splitlines()
            rows = {
                name: Row(category, tuple(parts.split()), code)
                for name, category, parts, code in _split(lines)
            }
        except FileNotFoundError:
            raise MissingAsset(f"no table of parses {path}") from None
        except (OSError, ValueError) as problem:
            raise UserError(f"{path} is no table of parses: {problem}") from None
        if not head.startswith("# "):
            raise UserError(f"{path} is no table of parses: its first line does not name the parser's model")
        return cls(head.removeprefix("# "), rows)

    @classmethod
    @cache
    def shipped(cls) -> Parses:
        """The project's own."""
        return cls.read(TABLE)

    def lines(self) -> Iterator[str]:
        """What `read` reads."""
        yield f"# {self.model}"
        for name, row in self.rows.items():
            yield "\t".join((name, row.category, " ".join(row.parts), row.code))


def digest(text: str) -> str:
    """A prompt's name in a table."""
    return hashlib.blake2b(text.strip().encode(), digest_size=6).hexdigest()


def _split(lines: list[str]) -> Iterator[tuple[str, str, str, str]]:
    for number, line in enumerate(lines, start=2):
        fields = line.split("\t")
        if len(fields) != 4:
            raise ValueError(f"line {number} has {len(fields)} fields, should have 4")
        yield fields[0], fields[1], fields[2], fields[3]


def _kind(letter: str) -> Kind:
    if letter not in get_args(Kind):
        raise ValueError(f'unknown part of speech "{letter}"')
    return letter
