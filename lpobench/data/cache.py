"""Results that several runs share, each in a folder named by the hash of everything it depends on."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lpobench.hashing import file_sha256


def digest(key: Mapping[str, Any]) -> str:
    """SHA-256 of the key's canonical JSON."""
    text = json.dumps(key, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def folder_of(root: Path, kind: str, key: Mapping[str, Any]) -> Path:
    """Where the result for a key lies, or would lie."""
    return root / f"{kind}-{digest(key)[:16]}"


def cached(root: Path, kind: str, key: Mapping[str, Any], make: Callable[[Path], None]) -> tuple[Path, bool]:
    """The folder that `make` fills for a key, and whether it was there already.

    It is filled under another name and renamed when it is whole, so a killed process leaves nothing that
    looks finished; of two processes that make the same at once, the first to finish is kept. `key.json` says
    what it is.
    """
    final = folder_of(root, kind, key)
    if final.is_dir():
        return final, True
    root.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".tmp-{final.name}-", dir=root))
    try:
        make(draft)
        (draft / "key.json").write_text(json.dumps(key, indent=1, sort_keys=True) + "\n")
        draft.chmod(0o755)  # mkdtemp made it private
        _publish(draft, final)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return final, False


def _publish(draft: Path, final: Path) -> None:
    try:
        os.rename(draft, final)
    except OSError:
        if not final.is_dir():
            raise


def content(path: Path) -> str:
    """SHA-256 of a file, or of the names and contents of all files below a folder."""
    whole = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
        whole.update(f"{file_sha256(file)} {file.relative_to(path).as_posix()}\n".encode())
    return whole.hexdigest()
