"""A folder of plain images, and the prompts they were made for."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lpobench.data.geneval.folder import is_layout, read_folder
from lpobench.data.prompt_files import read_entries, read_prompts, row_of
from lpobench.plugin import MissingAsset, UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
FILE_COLUMNS = ("file", "file_name", "filename", "image", "path")
HOW = "a .txt with a line per image, a .csv or .jsonl with file and prompt, or a .txt beside each image"


@dataclass(frozen=True)
class Prompted:
    """Images by path below their folder, in order; a prompt is None where there is none."""

    files: list[str]
    prompts: list[str | None]
    notes: list[str] = field(default_factory=list)
    """What does not match, one line each."""


def find_images(folder: Path) -> list[str]:
    """Every PNG, JPEG and WebP below a folder, numbers in names in order of size: 2.png before 10.png.

    Raises MissingAsset where there is no folder, UserError where it holds no image.
    """
    if not folder.exists():
        raise MissingAsset(f"no folder {folder}")
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; give the folder of the images")
    found = [path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()]
    if not found:
        raise UserError(f"no image in {folder}; known: files ending in {', '.join(SUFFIXES)}")
    return sorted((path.relative_to(folder).as_posix() for path in found), key=_natural)


def with_prompts(folder: Path, source: Path | None) -> Prompted:
    """The images of a folder with their prompts: of a file, or (None) of a .txt beside each image, or of the metadata
    in GenEval's folders.

    Raises UserError where it cannot be told which prompt belongs to which image, or no image has one.
    """
    if source is None and folder.is_dir() and is_layout(folder):
        samples = read_folder(folder)
        return Prompted([sample.file for sample in samples], [sample.demands.prompt for sample in samples])
    files = find_images(folder)
    if source is None:
        made = Prompted(files, [_beside(folder / name) for name in files])
    elif source.suffix == ".txt":
        made = Prompted(files, _line_by_line(source, files))
    else:
        made = _by_name(source, files)
    if not any(made.prompts):
        raise UserError(f"no image in {folder} has a prompt in {source or 'a .txt beside it'}; known: {HOW}")
    return made


def _natural(name: str) -> list[tuple[int, int | str]]:
    """Sort key; the kind of each part goes first, so that numbers are never compared with words."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts] + [(1, name)]


def _beside(image: Path) -> str | None:
    try:
        return image.with_suffix(".txt").read_text(encoding="utf-8-sig").strip() or None
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as reason:
        raise UserError(f"cannot read prompt file {image.with_suffix('.txt')}: {reason}") from None


def _line_by_line(source: Path, files: Sequence[str]) -> list[str | None]:
    prompts = [text for text, _ in read_prompts(source)]
    if len(prompts) != len(files):
        raise UserError(
            f"{source} has {len(prompts)} prompts for {len(files)} images; its lines are the images' in the order "
            "of their names, so there must be as many; or use a .csv or .jsonl with file and prompt"
        )
    return list(prompts)


def _by_name(source: Path, files: Sequence[str]) -> Prompted:
    """Names are paths below the folder, or bare names where only one image is called so."""
    bare = Counter(name.rpartition("/")[2] for name in files)
    whole = set(files)
    places = {name.rpartition("/")[2]: name for name in files} | {name: name for name in files}
    found: dict[str, str] = {}
    unknown: list[str] = []
    for where, entry in read_entries(source):
        name = _name_in(entry, where)
        if name not in places:
            unknown.append(name)
            continue
        if name not in whole and bare[name] > 1:
            raise UserError(f"{where}: {bare[name]} images are called {name}; give the path below the folder")
        text, file = row_of(entry, where)[0].strip(), places[name]
        if found.setdefault(file, text) != text:
            raise UserError(f"{where}: {file} has two prompts, {found[file]!r} and {text!r}; keep one")
    prompts = [found.get(name) or None for name in files]
    if not unknown:
        return Prompted(list(files), prompts)
    told = f"{source.name} names images that are not there: {len(unknown)}, such as {unknown[0]}"
    return Prompted(list(files), prompts, [told])


def _name_in(entry: str | dict[str, Any], where: str) -> str:
    """The image an entry is about."""
    values = {} if isinstance(entry, str) else entry
    for column in FILE_COLUMNS:
        if isinstance(name := values.get(column), str) and name.strip():
            return name.strip().removeprefix("./")
    raise UserError(f"{where}: no image named; expected {', '.join(FILE_COLUMNS[:-1])} or {FILE_COLUMNS[-1]}")
