"""The field's prompt sets by name, read from what is on this machine (`lpobench download NAME` gets them)."""

from __future__ import annotations

import hashlib
import random
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from lpobench.data import t2i_compbench
from lpobench.data.assets import locate
from lpobench.data.prompt_files import READERS, Row, plain, read_prompts
from lpobench.plugin import MissingAsset, UserError

PUBLISHED_MD5 = "d6df5051"
"""How the md5 of the published 4k_training_prompts.json of SPO and LPO begins; no more of it is known here."""
TRAIN_PROMPTS, TRAIN_SEED = 4000, 0
STYLES = ("anime", "concept-art", "paintings", "photo")


def is_published(source: str) -> bool | None:
    """Is this file, or this set, the published training list, as far as 8 digits can tell? None: it is no file."""
    path = _file(source) if source == "prompts-4k" else Path(source).expanduser()
    if not path.is_file():
        return None
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest().startswith(PUBLISHED_MD5)


def _published() -> list[Row]:
    """The 4,000 captions of Pick-a-Pic v1 that SPO and LPO are trained on."""
    return _counted("prompts-4k", read_prompts(_file("prompts-4k")), 4000)


def _sampled() -> list[Row]:
    """4,000 captions of Pick-a-Pic v1's training split, drawn with seed 0: a list of our own, not the published."""
    from lpobench.data.pairs.source import open_pairs

    source = open_pairs("pickapic-v1")
    train, held_out = {}, set()
    for pair in source.pairs(images=False):
        if pair.split == "train":
            train[pair.caption] = None
        else:
            held_out.add(plain(pair.caption))
    for line in source.problems.lines():
        print(f"left out: {line}", file=sys.stderr, flush=True)
    captions = [text.strip() for text in train if text.strip() and plain(text) not in held_out]
    if len(captions) < TRAIN_PROMPTS:
        raise UserError(
            f"pickapic-v1 has {len(captions):,} training captions here, {TRAIN_PROMPTS:,} are wanted"
        )
    places = random.Random(TRAIN_SEED).sample(range(len(captions)), TRAIN_PROMPTS)
    return [(captions[place], {}) for place in sorted(places)]


def _validation() -> list[Row]:
    """The 500 captions of Pick-a-Pic v1's validation_unique, in its order."""
    path = locate("pickapic-v1-prompts")
    if path.suffix in READERS:
        return _counted("pickapic-v1-prompts", read_prompts(path), 500)
    files = [path] if path.is_file() else sorted(path.rglob("validation_unique*.parquet"))
    return _counted("pickapic-v1-prompts", [(text, {}) for file in files for text in _captions(file)], 500)


def _hpdv2(styles: Iterable[str] = STYLES) -> list[Row]:
    """800 prompts of each style of the HPSv2 benchmark; the style is the task."""
    folder = locate("hpdv2-prompts")
    rows = []
    for style in styles:
        texts = _counted(f"hpdv2-prompts/{style}", read_prompts(folder / f"{style}.json"), 800)
        rows += [(text, {"task": style}) for text, _ in texts]
    return rows


def _parti() -> list[Row]:
    """PartiPrompts (P2); its category is the task."""
    return read_prompts(_file("partiprompts"))


def _geneval() -> list[Row]:
    """GenEval's 553, drawn here: nothing to download."""
    from lpobench.data import geneval

    return geneval.rows()


def _compbench(*categories: str) -> list[Row]:
    """T2I-CompBench++'s 300 of each category, all of them where none is named; the category is the task."""
    return t2i_compbench.rows(categories or t2i_compbench.CATEGORIES)


SETS: dict[str, Callable[[], list[Row]]] = {
    "prompts-4k": _published,
    "pickapic-train": _sampled,
    "pickapic-v1-prompts": _validation,
    "hpdv2-prompts": _hpdv2,
    **{f"hpdv2-prompts/{style}": lambda style=style: _hpdv2([style]) for style in STYLES},
    "partiprompts": _parti,
    "geneval": _geneval,
    "t2i_compbench": _compbench,
    **{f"t2i_compbench.{name}": lambda name=name: _compbench(name) for name in t2i_compbench.CATEGORIES},
}


def _file(name: str) -> Path:
    """An asset's one file. A user may have given the folder it lies in."""
    path = locate(name)
    if path.is_file():
        return path
    files = sorted(file for file in path.iterdir() if file.suffix in READERS)
    if len(files) != 1:
        raise UserError(f"{name} should be one file, {path} holds {len(files)} that could be it")
    return files[0]


def _captions(file: Path) -> list[str]:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise MissingAsset(f"{file} is read with {error.name}: install lpobench[data]") from error
    try:
        column = parquet.read_table(file, columns=["caption"])["caption"]
    except (pa.ArrowException, OSError, KeyError) as error:
        raise UserError(f"cannot read the captions of {file}: {str(error).splitlines()[0]}") from error
    return [text for text in column.to_pylist() if text]


def _counted(name: str, rows: list[Row], wanted: int) -> list[Row]:
    """Raises UserError where a set of known size has another."""
    if len(rows) != wanted:
        raise UserError(f"{name} has {len(rows):,} prompts here, should have {wanted:,}; get it again")
    return rows
