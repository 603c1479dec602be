"""Which split a file or a row belongs to."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePath

from lpobench.plugin import UserError

SPLITS = ("train", "validation", "validation_unique", "test", "test_unique")
"""Pick-a-Pic's, in the order they are read in."""
HUB_NAME = re.compile(r"(?P<split>\w+?)-\d{4,5}-of-\d{4,5}")
PLAIN_NAME = re.compile(rf"(?P<split>{'|'.join(sorted(SPLITS, key=len, reverse=True))})(?![a-z])")


def split_of(path: PurePath) -> str | None:
    """The split a file's name says, as on the Hub: `train-00000-of-00645-0fe8.parquet`; or its folder's name."""
    for pattern in (HUB_NAME, PLAIN_NAME):
        if found := pattern.match(path.name):
            return found["split"]
    return path.parent.name if path.parent.name in SPLITS else None


def order(split: str | None) -> tuple[int, str]:
    """Sort key of splits: the known ones first."""
    return (SPLITS.index(split) if split in SPLITS else len(SPLITS), split or "")


def check_split(source: str, split: str | None, known: Iterable[str]) -> None:
    """Raises UserError where a source has no such split."""
    if split is not None and split not in (names := sorted(set(known), key=order)):
        raise UserError(f'{source} has no split "{split}"; it has {", ".join(names) or "none"}')
