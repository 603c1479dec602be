"""Image files that lie beside a list of pairs: in folders, or in tar archives.

What an archive or a list names is never trusted: a path that leads outside is refused, and its rows are counted.
An uncompressed tar is read in place. A compressed one is unpacked once, into the user's cache.
"""

from __future__ import annotations

import json
import os
import sys
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Protocol

from lpobench.data.cache import cached
from lpobench.data.pairs.record import BadRow
from lpobench.plugin import UserError

REFUSED = "an image's path leads outside its folder or archive"
MISSING = "an image is missing"


class Images(Protocol):
    """Files by the name a list gives them."""

    notes: list[str]
    """What was refused, one line per archive."""

    def read(self, row: int, name: str) -> bytes:
        """A file's bytes. Raises BadRow, of `row`, where it is missing or refused."""
        ...


@dataclass(frozen=True)
class FolderImages:
    """Files below the first of several folders that has them."""

    folders: Sequence[Path]
    notes: list[str] = field(default_factory=list)

    def read(self, row: int, name: str) -> bytes:
        plain = os.path.normpath(name)
        if os.path.isabs(plain) or plain.split(os.sep)[0] == os.pardir:
            raise BadRow(row, REFUSED)
        for folder in self.folders:
            try:
                return (folder / plain).read_bytes()
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                continue
            except OSError as error:
                raise BadRow(row, "an image cannot be read") from error
        raise BadRow(row, MISSING)


@dataclass
class TarImages:
    """Files of uncompressed tar archives, by full name in the archive or by last part; read in place."""

    archives: Sequence[Path]
    notes: list[str] = field(default_factory=list)
    _places: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    _refused: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        for number, path in enumerate(self.archives):
            bad = []
            for member, problem in members(path):
                if problem:
                    bad.append(member.name)
                    self._refused |= {member.name, PurePosixPath(member.name).name}
                elif member.isreg():
                    place = number, member.offset_data, member.size
                    self._places[_plain(member.name)] = place
                    self._places.setdefault(PurePosixPath(member.name).name, place)
            self.notes += _told(path, bad)

    def read(self, row: int, name: str) -> bytes:
        last = PurePosixPath(name).name
        place = self._places.get(_plain(name)) or self._places.get(last)
        if place is None:
            raise BadRow(row, REFUSED if {name, last} & self._refused else MISSING)
        number, offset, size = place
        with self.archives[number].open("rb") as file:
            file.seek(offset)
            return file.read(size)


@dataclass(frozen=True)
class SeveralImages:
    """The first of several places that has a file."""

    places: Sequence[Images]

    @property
    def notes(self) -> list[str]:
        return [note for place in self.places for note in place.notes]

    def read(self, row: int, name: str) -> bytes:
        reasons = []
        for place in self.places:
            try:
                return place.read(row, name)
            except BadRow as bad:
                reasons.append(bad.reason)
        raise BadRow(row, next((reason for reason in reasons if reason != MISSING), MISSING))


def members(path: Path) -> Iterator[tuple[tarfile.TarInfo, str]]:
    """Every entry of an archive, and why it is refused ("" where it is not).

    Raises UserError for an archive that is cut off or no archive.
    """
    end = path.stat().st_size
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if member.isreg() and member.offset_data + member.size > end:
                    raise tarfile.ReadError("the last file is cut off")
                yield member, _refusal(member)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UserError(f"cannot read {path}: {error}; the archive is damaged, get it again") from error


def _refusal(member: tarfile.TarInfo) -> str:
    try:
        tarfile.data_filter(member, "/nowhere")
    except tarfile.FilterError as error:
        return str(error)
    return ""


def unpacked(path: Path, root: Path | None = None) -> FolderImages:
    """The files of a compressed archive, unpacked below `root` (the user's cache) the first time."""
    status = path.stat()
    key = {"archive": path.name, "size": status.st_size, "changed": status.st_mtime_ns}
    folder, _ = cached(root or unpacked_root(), "unpacked", key, lambda draft: _unpack(path, draft))
    bad = json.loads((folder / "refused.json").read_text(encoding="utf-8"))
    files = folder / "files"
    inner = sorted(path for path in files.iterdir() if path.is_dir())
    return FolderImages([files, *inner], _told(path, bad))


def unpacked_root() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "lpobench"


def _unpack(path: Path, draft: Path) -> None:
    print(f"unpacking {path} into {draft.parent}, once", file=sys.stderr, flush=True)
    bad: list[str] = []

    def keep(member: tarfile.TarInfo, where: str) -> tarfile.TarInfo | None:
        try:
            safe = tarfile.data_filter(member, where)
        except tarfile.FilterError:
            bad.append(member.name)
            return None
        return safe if safe.isreg() or safe.isdir() else None

    try:
        with tarfile.open(path, "r:*") as archive:
            archive.extractall(draft / "files", filter=keep)
    except (tarfile.TarError, EOFError) as error:
        raise UserError(f"cannot unpack {path}: {error}; the archive is damaged, get it again") from error
    (draft / "files").mkdir(exist_ok=True)
    (draft / "refused.json").write_text(json.dumps(bad), encoding="utf-8")


def _plain(name: str) -> str:
    return name.removeprefix("./")


def _told(path: Path, bad: list[str]) -> list[str]:
    if not bad:
        return []
    return [f"{path.name}: {len(bad)} refused, {bad[0]} leads outside the archive"]
