"""Prompts to train and to evaluate on: the embedded world's, a known set's, or a file's.

A prompt's id is made from its text, so the noise it is drawn with does not depend on where in the file it
stands.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from lpobench.data.prompt_files import READERS, Row, plain, read_prompts
from lpobench.data.prompt_sets import SETS
from lpobench.plugin import UserError
from lpobench.types import Prompt

Split = Literal["train", "eval"]
WORLD_PROMPTS = 4096


def load_prompts(source: str, split: Split, num: int | None, seed: int) -> list[Prompt]:
    """At most `num` prompts of "shapes", of a set in SETS, or of a file. None: all there are, 4096 shapes.

    A file ends in .txt (one prompt per line), .csv, .tsv, .json or .jsonl (a column or key `prompt` or
    `caption`). Of more than `num` prompts a sample is drawn with `seed`, in the given order; `split` means
    nothing but to "shapes". Raises UserError.
    """
    if source == "shapes":
        from lpobench.data import shapes

        return shapes.prompts(split, WORLD_PROMPTS if num is None else num, seed)
    prompts = identified(_read(source))
    if not prompts:
        raise UserError(f"no prompts in {source}: every line is empty")
    if num is None or num >= len(prompts):
        return prompts
    return [prompts[i] for i in sorted(random.Random(seed).sample(range(len(prompts)), num))]


def check_held_out(
    train: Sequence[Prompt], evaluation: Sequence[Prompt], *, allow_overlap: bool = False
) -> None:
    """Raises UserError when a training prompt is also evaluated on: the table would measure memory.

    Case and white space make no difference. `allow_overlap` is the user's word that it is meant.
    """
    shared = {plain(prompt.text) for prompt in train} & {plain(prompt.text) for prompt in evaluation}
    if shared and not allow_overlap:
        raise UserError(
            f"{len(shared)} of the {len(evaluation)} evaluation prompts are also training prompts "
            f"(one is {min(shared)!r}); take them out of one of the two lists, or set train.allow_overlap"
        )


def identified(rows: Iterable[Row]) -> list[Prompt]:
    """Prompts whose ids follow from their texts, and from the order of those that come again."""
    seen: Counter[str] = Counter()
    prompts = []
    for text, tags in rows:
        digest = hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
        seen[digest] += 1
        prompts.append(Prompt(text, digest if seen[digest] == 1 else f"{digest}-{seen[digest]}", tags))
    return prompts


def _read(source: str) -> list[Row]:
    if source in SETS and not Path(source).exists():
        return SETS[source]()
    path = Path(source).expanduser()
    if path.suffix not in READERS:
        known = ", ".join(["shapes", *SETS])
        raise UserError(
            f'unknown prompts "{source}"; known: {known}, or a file ending in {", ".join(READERS)}'
        )
    return read_prompts(path)
