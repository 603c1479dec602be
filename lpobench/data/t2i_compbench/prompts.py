"""The published validation prompts, 300 of each category, from where a user has put them; checked by their hashes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from lpobench.data.assets import find, locate
from lpobench.data.t2i_compbench.demands import CATEGORIES
from lpobench.data.t2i_compbench.parses import Parses, Row, digest
from lpobench.data.t2i_compbench.reading import read
from lpobench.plugin import UserError

ASSET = "t2i-compbench-prompts"
COMPLEX_PARTS = {"complex_val_spatial.txt": "spatial", "complex_val_action.txt": "action"}
"""Which complex prompts are scored for what, besides attributes; those in neither file, for both."""


def rows(categories: Sequence[str] = CATEGORIES) -> list[tuple[str, dict[str, str]]]:
    """Prompts and tags, category by category, in the published order. Raises MissingAsset and UserError."""
    folder, table = locate(ASSET), Parses.shipped().rows
    return [
        (text, read(text, table[digest(text)]).tags)
        for category in categories
        for text in read_lines(folder / file_of(category))
    ]


def file_of(category: str) -> str:
    """The name of its published file."""
    return f"{category}_val.txt"


def read_lines(path: Path) -> list[str]:
    """The prompts of a published file. Raises UserError where it is another file."""
    wanted = find(ASSET).sha256[path.name]
    try:
        content = path.read_bytes()
    except OSError as problem:
        raise UserError(f"cannot read {path}: {problem.strerror}") from None
    found = hashlib.sha256(content).hexdigest()
    if found != wanted:
        raise UserError(
            f"{path} is not the published file: its SHA-256 is {found[:12]}..., should be {wanted[:12]}...; "
            f"`lpobench download {ASSET}` gets it"
        )
    return content.decode("utf-8").splitlines()


def unparsed(folder: Path) -> dict[str, tuple[str, Row]]:
    """Every prompt with a row that lacks its parse, by digest. Raises UserError."""
    parts = {}
    for name, part in COMPLEX_PARTS.items():
        for text in read_lines(folder / name):
            parts.setdefault(_stem(text), ("attribute", part))
    both = ("attribute", "spatial", "action")
    return {
        digest(text): (text, Row(category, parts.get(_stem(text), both) if category == "complex" else (), ""))
        for category in CATEGORIES
        for text in read_lines(folder / file_of(category))
    }


def _stem(text: str) -> str:
    """What the official script compares complex prompts by."""
    return text.split(".")[0].lower()
