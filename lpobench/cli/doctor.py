"""`lpobench doctor`: what this machine has, to read before a run and to paste into an issue."""

from __future__ import annotations

import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lpobench import registry
from lpobench.cli.options import RUNS, Json, Out
from lpobench.cli.output import check_writable, columns, heading, show_json
from lpobench.data import assets
from lpobench.evaluation.scorers import readiness, worker
from lpobench.plugin import UserError
from lpobench.spec import check_assets_of

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

    Versions, devices, disk, which backbones, rewards and evaluators are runnable, and which assets are here: to read
    before a run and to paste into an issue. `lpobench download` supplies what is missing.
    """
    findings = {
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "devices": _devices(),
        "disk": _disk(out),
        "backbones": _runnable("backbones"),
        "rewards": _runnable("rewards"),
        "evaluators": _evaluators(),
        "workers": _workers(),
        "assets": _assets(),
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


def _runnable(kind: registry.Kind) -> dict[str, str]:
    """Each plug-in as it stands by default: what it would read from disk, or what is missing and supplies it."""
    found = {}
    for name in registry.names(kind):
        try:
            part = registry.get(kind, name)()
            check_assets_of(part)
            files = [str(path) for path in part.assets().values()]
            found[name] = f"ready: {os.path.commonpath(files)}" if files else "ready"
        except UserError as error:
            found[name] = f"not ready: {error}"
    return found


def _evaluators() -> dict[str, str]:
    found = [readiness(name) for name in registry.names("evaluators")]
    return {one.name: "ready" if one.ready else f"not ready: {one.missing}" for one in found}


def _workers() -> dict[str, str]:
    """What starts each official package; its environment is built when it is first used."""
    found = {}
    for name in worker.names():
        try:
            found[name] = " ".join(worker.command_of(name))
        except UserError as error:
            found[name] = f"not ready: {error}"
    return found


def _assets() -> dict[str, str]:
    """Everything in the table of assets: where it is, or what it would cost."""
    found = {}
    for name, asset in assets.table().items():
        path, problem = assets.look(asset)
        if path:
            found[name] = f"present: {path}"
        elif problem == assets.describe(asset):
            found[name] = f"missing: size {asset.size}, licence {asset.terms}"
        else:
            found[name] = f"missing: {problem}"
    return found
