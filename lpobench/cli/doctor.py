"""`lpobench doctor`: what this machine has, to read before a run and to paste into an issue."""

from __future__ import annotations

import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lpobench import registry
from lpobench.cli.options import RUNS, Json, Out
from lpobench.cli.output import check_writable, columns, heading, show_json
from lpobench.plugin import UserError

PACKAGES = (
    "lpobench",
    "torch",
    "diffusers",
    "transformers",
    "peft",
    "accelerate",
    "safetensors",
    "numpy",
    "scipy",
    "pandas",
)


def doctor(out: Out = RUNS, as_json: Json = False) -> None:
    """Look over this machine.

    Versions, devices, disk, and which weights are present: to read before a run and to paste into an issue.
    """
    findings = {
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "devices": _devices(),
        "disk": _disk(out),
        "weights": _weights(),
    }
    if as_json:
        return show_json(findings)
    for title, entries in findings.items():
        heading(title)
        columns([(key, str(value)) for key, value in entries.items()])
    return None


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _devices() -> dict[str, str]:
    try:
        import torch
    except ImportError as error:
        return {"torch": f"cannot be imported: {error}"}
    found = {"cpu": f"{torch.get_num_threads()} threads, {platform.machine()}"}
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        found[f"cuda:{index}"] = f"{card.name}, {card.total_memory / 2**30:.0f} GiB"
    if torch.backends.mps.is_available():
        found["mps"] = "available"
    return found


def _disk(out: Path) -> dict[str, Any]:
    place = out.absolute()
    while not place.exists():
        place = place.parent
    try:
        check_writable(out)
        writable = "yes"
    except UserError as error:
        writable = f"no: {error}"
    return {"out": str(out), "writable": writable, "free": f"{shutil.disk_usage(place).free / 2**30:.1f} GiB"}


def _weights() -> dict[str, str]:
    """What each plug-in with no required setting would read from disk, as it stands by default."""
    found = {}
    for kind in ("backbones", "rewards"):
        for name in registry.names(kind):
            try:
                settings = registry.get(kind, name)()
                _ = settings.latent_space  # raises where only the weights' folder could tell
                for what, path in settings.assets().items():
                    found[f"{name} {what}"] = f"{'present' if path.exists() else 'missing'}: {path}"
            except UserError as error:
                found[name] = str(error)
    return found
