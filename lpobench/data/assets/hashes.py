"""Is a downloaded file what its makers uploaded? Against the table's hashes and the Hub's own."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from lpobench.data.assets.places import asset_folder
from lpobench.data.assets.table import Asset
from lpobench.hashing import file_sha256

HASH = re.compile(r"[0-9a-f]{64}")


def wrong_hash(
    asset: Asset, place: Path, say: Callable[[str], None] = lambda line: None, *, discard: bool = False
) -> str:
    """Hash every file of an asset of which a SHA-256 is known; what is wrong with the first that differs, or "".

    `discard` deletes that file, so that nobody takes it for good.
    """
    checks = list(_expected(asset, place))
    if checks:
        say(f"{asset.name}: checking {len(checks)} file{'s'[: len(checks) != 1]}")
    for file, wanted, who in checks:
        found = file_sha256(file)
        if found != wanted:
            if discard:
                file.resolve().unlink()  # in the cache a dangling link stays, which `whole` sees
            gone = ", so it was deleted" if discard else ""
            return f"{file} has SHA-256 {found[:12]}..., {who} says {wanted[:12]}...{gone}"
    return ""


def _expected(asset: Asset, place: Path) -> Iterator[tuple[Path, str, str]]:
    """File, its hash, and who says so."""
    if place.is_file():
        known = asset.sha256.get(asset.file or place.name)
        if known:
            yield place, known, "the table of assets"
        return
    folder = asset_folder(asset, place)
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = file.relative_to(folder).as_posix()
        if name.startswith(".cache/"):
            continue
        if name in asset.sha256:
            yield file, asset.sha256[name], "the table of assets"
        elif said := _said_by_hub(file, place):
            yield file, said, "the Hub"


def _said_by_hub(file: Path, place: Path) -> str | None:
    """The hash under which the Hub stores a large file, as its library noted it while downloading.

    In the cache a file is a link to a blob of that name; below a folder of the user's own it is the second line
    of `.cache/huggingface/download/FILE.metadata`.
    """
    if file.is_symlink():
        said = Path(os.readlink(file)).name
    else:
        notes = (
            place / ".cache" / "huggingface" / "download" / f"{file.relative_to(place).as_posix()}.metadata"
        )
        lines = notes.read_text(encoding="utf-8").splitlines() if notes.is_file() else []
        said = lines[1] if len(lines) > 1 else ""
    return said if HASH.fullmatch(said) else None
