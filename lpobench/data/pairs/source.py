"""Where preference pairs come from: one reader's contract, and what a source's name may be.

| source | is |
|---|---|
| a .parquet file, a folder of them, a glob | Pick-a-Pic's columns |
| a folder with train.json or test.json | HPDv2 |
| a folder with pairs.jsonl | images of your own |
| a folder with meta.json | pairs as latents, no images |
| shapes, shapes:ROWS, shapes:ROWS:SEED | rendered shapes world, made as it is read |
| pickapic-v1, hpdv2, ... or org/name[@revision] | an asset on this machine; with `stream`, read from the Hub |
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from lpobench.data import assets
from lpobench.data.pairs.record import PreferencePair, Problems
from lpobench.data.shipped import SHIPPED, shipped
from lpobench.plugin import MissingAsset, UserError

SHAPES = re.compile(r"shapes(:\d+(:\d+)?)?")


@runtime_checkable
class PairSource(Protocol):
    """Preference pairs in a fixed order, numbered from 0."""

    name: str
    has_images: bool
    """False for pairs kept as latents: `images` is None in every pair."""
    problems: Problems
    """What was wrong with the rows read so far."""

    def identity(self) -> dict[str, Any]:
        """What decides the content, found without reading it all: JSON values, no absolute path."""
        ...

    def __len__(self) -> int:
        """Rows, the bad ones included. Raises UserError where a stream cannot tell."""
        ...

    def pairs(
        self, start: int = 0, shard: tuple[int, int] = (0, 1), *, images: bool = True
    ) -> Iterator[PreferencePair]:
        """The good rows in order, from row `start` on; the bad ones are counted in `problems`.

        `shard` is (rank, world): each rank gets one contiguous piece of the rows. `images=False` reads the
        other columns only, and so does not notice a missing image.
        """
        ...

    def get(self, row: int, *, images: bool = True) -> PreferencePair:
        """One row. Raises BadRow, and counts it; UserError for a stream."""
        ...


def open_pairs(source: str, split: str | None = None, *, stream: bool = False) -> PairSource:
    """Open a source, and check all that can be checked without reading the images.

    `split` None is all splits. The network is used only with `stream`. Raises UserError and MissingAsset.
    """
    if SHAPES.fullmatch(source):
        from lpobench.data.pairs.world import WorldPairs

        return WorldPairs(source, split)
    if stream:
        from lpobench.data.pairs.stream import from_hub

        return from_hub(source, split)
    return _open_local(source, _path(source), split)


def check_there(source: str) -> None:
    """Raises MissingAsset where a source names nothing on this machine. Opens nothing."""
    if not SHAPES.fullmatch(source):
        _path(source)


def _path(source: str) -> Path | list[Path]:
    """The file or folder a source names, or the files of a glob."""
    path = shipped(source) or Path(source).expanduser()
    if path.exists():
        return path
    if any(sign in source for sign in "*?["):
        if found := sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor)))):
            return found
        raise MissingAsset(f"no file matches {source}")
    if source in assets.names("dataset"):
        return assets.locate(source)
    if assets.HUB_ID.fullmatch(source):
        found, problem = assets.look(replace(assets.find(source), kind="dataset", optional=()))
        if found is None:
            raise MissingAsset(
                f"no {source}: {problem}; `hf download {source} --repo-type dataset` fetches it, --stream reads it"
            )
        return found
    known = ", ".join(["shapes", *SHIPPED, *assets.names("dataset")])
    raise MissingAsset(f'no preference pairs at "{source}"; give a file, a folder, or one of {known}')


def _open_local(source: str, path: Path | list[Path], split: str | None) -> PairSource:
    if isinstance(path, Path) and path.is_dir():
        if (path / "pairs.jsonl").is_file():
            from lpobench.data.pairs.listed import ListedPairs

            return ListedPairs(source, path, split)
        if (path / "pairs.csv.gz").is_file():
            from lpobench.data.pairs.latent_source import LatentFolder

            return LatentFolder(source, path, split)
        if any((path / f"{name}.json").is_file() for name in ("train", "test")):
            from lpobench.data.pairs.hpd import HPDPairs

            return HPDPairs(source, path, split)
        files = sorted(path.rglob("*.parquet"))
        if not files:
            raise UserError(
                f"{path} holds no preference pairs: no *.parquet, pairs.jsonl, train.json or pairs.csv.gz in it"
            )
        root = path
    else:
        files = path if isinstance(path, list) else [path]
        root = Path(os.path.commonpath([file.parent for file in files]))
    if wrong := [file for file in files if file.suffix != ".parquet"]:
        raise UserError(f"{wrong[0]} is no .parquet file; pairs are read from parquet, or from a folder")
    try:
        from lpobench.data.pairs.files import local_files
        from lpobench.data.pairs.parquet import ParquetPairs
    except ModuleNotFoundError as error:
        raise MissingAsset(f"{source} is read with {error.name}: install lpobench[data]") from error
    return ParquetPairs(source, local_files(files, root), split)
