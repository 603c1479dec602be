"""Where numbers come from: package versions, the code's commit, and the memory the process took. No torch."""

from __future__ import annotations

import platform
import resource
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from lpobench.records.record import Git

PACKAGES = ("lpobench", "torch", "diffusers", "transformers", "peft", "accelerate", "numpy", "scipy")


def versions() -> dict[str, str]:
    """Versions of Python and of every package that can change a number; a missing one is left out."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def git_state(source: Path = Path(__file__)) -> Git | None:
    """Commit and dirty flag of the tree `source` is tracked in; None when untracked, or without git."""
    try:
        _git(source, "ls-files", "--error-unmatch", source.name)
        commit = _git(source, "rev-parse", "HEAD")
        return Git(commit=commit, dirty=bool(_git(source, "status", "--porcelain", "--untracked-files=no")))
    except (OSError, subprocess.SubprocessError):
        return None


def peak_resident_bytes() -> int:
    """Largest resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _git(source: Path, *arguments: str) -> str:
    command = ["git", "-C", str(source.parent), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=20).stdout.strip()
