"""Folders of files that are either whole or absent.

A checkpoint is written into `.tmp-step-00000012-<pid>`, every file flushed to the disk, a manifest with
sizes and SHA-256 sums last, and only then renamed to `step-00000012`; older ones are pruned after that. So a
kill at any moment leaves the checkpoint before, and a full disk costs the new checkpoint, never the old one.
The reader trusts nothing but the manifest: the newest folder that agrees with its own is taken.
"""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from lpobench.hashing import file_sha256
from lpobench.plugin import UserError

Content = bytes | Callable[[], bytes]
MANIFEST = "manifest.json"
TEMPORARY = ".tmp-"


class StorageError(UserError):
    """The disk refused: full, gone or read-only."""

    exit_code = 4


@contextmanager
def storage_errors(what: str) -> Iterator[None]:
    """Turn an OSError into one line that says what could not be done and why."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"{what}: {error.strerror or error}") from error


def save(root: Path, step: int, files: Mapping[str, Content], keep: int) -> Path:
    """Write checkpoint `step`, then remove all but the newest `keep`. Raises StorageError, older ones intact.

    A callable is asked for its bytes when its turn comes, so that only one file is held in memory.
    """
    final = root / f"step-{step:08d}"
    with storage_errors(f"checkpoint {final} could not be written, the one before it is intact"):
        root.mkdir(parents=True, exist_ok=True)
        with _temporary(root, final.name) as folder:
            manifest = {name: _write(folder / name, content) for name, content in files.items()}
            _write(folder / MANIFEST, json.dumps({"step": step, "files": manifest}, indent=1).encode())
            _sync_folder(folder)
            _remove(final)  # one of this name exists only if it did not verify: training started before it
            os.rename(folder, final)
            _sync_folder(root)
    with storage_errors(f"old checkpoints in {root} could not be removed"):
        _prune(root, step, keep)
    return final


def newest(root: Path) -> Path | None:
    """The newest checkpoint that verifies; those it passes over are named on stderr."""
    for folder in reversed(_checkpoints(root)):
        problem = verify(folder)
        if problem is None:
            return folder
        print(f"warning: checkpoint {folder} is skipped: {problem}", file=sys.stderr)
    return None


def verify(folder: Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    try:
        files = json.loads((folder / MANIFEST).read_bytes())["files"]
        expected = {name: (entry["size"], entry["sha256"]) for name, entry in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "it has no readable manifest"
    for name, (size, sha256) in expected.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size or file_sha256(path) != sha256:
            return f"{name} is not what its manifest says"
    return None


def step_of(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def sweep(root: Path) -> None:
    """Remove what dead processes left half-written. To be called before this one writes anything."""
    for folder in root.glob(f"{TEMPORARY}*"):
        pid = folder.name.rpartition("-")[2]
        if pid.isdigit() and (int(pid) == os.getpid() or not _alive(int(pid))):  # our own number was reused
            _remove(folder)


@contextmanager
def _temporary(root: Path, name: str) -> Iterator[Path]:
    folder = root / f"{TEMPORARY}{name}-{os.getpid()}"
    try:
        folder.mkdir()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # after the rename there is nothing to remove


def _write(path: Path, content: Content) -> dict[str, str | int]:
    data = content if isinstance(content, bytes) else content()
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _sync_folder(folder: Path) -> None:
    """Make names durable: fsync of a file does not cover its entry in the folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _prune(root: Path, step: int, keep: int) -> None:
    """Keep the newest `keep` up to `step`. Later ones did not verify, or training would be beyond them."""
    earlier = [folder for folder in _checkpoints(root) if step_of(folder) <= step]
    for folder in set(_checkpoints(root)) - set(earlier[-keep:]):
        _remove(folder)


def _remove(folder: Path) -> None:
    """Remove a folder so that a kill half-way leaves something for `sweep`, not a damaged checkpoint."""
    if not folder.exists():
        return
    if not folder.name.startswith(TEMPORARY):
        folder = folder.rename(folder.with_name(f"{TEMPORARY}old-{folder.name}-{os.getpid()}"))
    shutil.rmtree(folder)


def _checkpoints(root: Path) -> list[Path]:
    found = (folder for folder in root.glob("step-*") if folder.name.removeprefix("step-").isdigit())
    return sorted(found, key=step_of)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it exists and is somebody else's
        pass
    return True
