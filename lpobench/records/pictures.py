"""Where finished work keeps its pictures, and which of them are whole. No torch.

    images/PROMPT-NUMBER.png    8-bit RGB
    manifest/HASH.jsonl         a line per image of one batch: file, prompt_id, image, prompt, sha256

An image counts as long as its bytes have a hash that a manifest names. A run keeps those of its method in `EVALUATION`,
and shares those of its untouched base with other runs, in `CACHE` beside them.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Set
from pathlib import Path
from typing import Any

from lpobench.records.record import RunRecord

IMAGES, MANIFEST, ABOUT = "images", "manifest", "about.json"
CACHE = "cache"
"""Folder beside the runs for what they share."""
EVALUATION = "evaluation"
"""Folder in a run's own for the method's images and their scores."""
Key = tuple[str, int]
"""Prompt id, and the image's number."""


def path_of(folder: Path, key: Key) -> Path:
    return folder / IMAGES / f"{key[0]}-{key[1]}.png"


def noted(folder: Path) -> dict[Key, set[str]]:
    """What the manifests say: hashes by image. One that is damaged says nothing."""
    found: dict[Key, set[str]] = {}
    for path in sorted((folder / MANIFEST).glob("*.jsonl")):
        for line in _lines(path):
            found.setdefault((line["prompt_id"], line["image"]), set()).add(line["sha256"])
    return found


def whole(folder: Path, key: Key, known: Set[str]) -> bytes | None:
    """The file of an image; None where it is gone, or has none of the hashes."""
    try:
        data = path_of(folder, key).read_bytes()
    except OSError:
        return None
    return data if hashlib.sha256(data).hexdigest() in known else None


def in_turn(tasks: Iterable[str]) -> list[int]:
    """Places in a list of prompts, by task: the first of every task, then the second of every task, and so on."""
    seen: Counter[str] = Counter()
    ranked = []
    for place, task in enumerate(tasks):
        ranked.append((seen[task], place))
        seen[task] += 1
    return [place for _, place in sorted(ranked)]


def folder_of_method(record: RunRecord) -> Path | None:
    """Of the images of what the run made; None where it made none, or they are gone."""
    folder = record.folder / EVALUATION
    return folder if record.variant and (folder / MANIFEST).is_dir() else None


def folder_of_base(record: RunRecord) -> Path | None:
    """Of the images of the untouched base that the run was compared with; None where they are gone."""
    for path in sorted((record.folder.parent / CACHE).glob(f"base-*/{ABOUT}")):
        if _is_base_of(record, _document(path)):
            return path.parent
    return None


def _is_base_of(record: RunRecord, about: dict[str, Any]) -> bool:
    """Whether images made under these conditions are those of the record's base."""
    conditions = {"base": record.base, "prompts_sha256": record.protocol.prompts_sha256}
    settings, evaluation = about.get("settings"), record.spec.get("eval", {})
    same = all(about.get(name) == value for name, value in conditions.items())
    return same and isinstance(settings, dict) and settings.items() <= evaluation.items()


def _document(path: Path) -> dict[str, Any]:
    """A JSON object; an empty one where the file holds none."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        yield from (line for line in lines if {"prompt_id", "image", "sha256"} <= line.keys())
    except (OSError, ValueError, AttributeError):
        return
