"""The machine figures are taken on, and whether somebody else was using it."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import time
from pathlib import Path

import psutil
import torch

from lpobench.conclude import device_name
from lpobench.plugin import UserError
from lpobench.records import provenance
from lpobench.records.bench import Environment
from lpobench.timing.peaks import rounds_to_tf32

SHARE_OF_OTHERS = 0.1
"""Of all cores; above, the machine counts as busy."""
GPU_BUSY, GPU_FULL = 5, 1024
"""Percent of utilisation and MiB in use, before anything of ours is on it; above, the GPU counts as busy."""
ASKED = {
    "utilization.gpu": "utilisation, %",
    "memory.used": "memory in use, MiB",
    "driver_version": "driver",
    "clocks.sm": "SM clock, MHz",
    "clocks.max.sm": "largest SM clock, MHz",
    "power.limit": "power limit, W",
    "temperature.gpu": "temperature, C",
}


class Watch:
    """Looks at the machine before a measurement, and while it goes on."""

    def __init__(self, device: torch.device, *, allow_busy: bool = False) -> None:
        """Raises UserError for a GPU that is at work already, unless that is allowed; then it is marked."""
        self.device, self.gpu = device, _gpu(device)
        self.gpu_busy = _is_busy(self.gpu)
        if self.gpu_busy and not allow_busy:
            use = ", ".join(f"{self.gpu[name]} {name}" for name in list(ASKED.values())[:2])
            raise UserError(f"the GPU is busy ({use}): free it, or measure all the same with --allow-busy")
        self._began = _counters()

    def environment(self) -> Environment:
        """As it was until now."""
        others = _others(self._began, _counters())
        return Environment(
            device=device_name(self.device),
            processor=_processor(),
            cores=os.cpu_count() or 1,
            threads=torch.get_num_threads(),
            system=platform.platform(),
            versions=provenance.versions(),
            git=provenance.git_state(),
            gpu=self.gpu,
            tf32=rounds_to_tf32() if self.device.type == "cuda" else (),
            others=others,
            busy=self.gpu_busy or others > SHARE_OF_OTHERS,
        )


def _counters() -> tuple[float, float, float]:
    """Seconds: wall, all cores at work, this process at work."""
    times, own = psutil.cpu_times(), psutil.Process().cpu_times()
    return time.monotonic(), sum(times) - times.idle - getattr(times, "iowait", 0.0), own.user + own.system


def _others(began: tuple[float, float, float], now: tuple[float, float, float]) -> float:
    wall, at_work, own = (b - a for a, b in zip(began, now, strict=True))
    return min(1.0, max(0.0, (at_work - own) / (max(wall, 1e-9) * (os.cpu_count() or 1))))


def _gpu(device: torch.device) -> dict[str, str]:
    """What nvidia-smi says of it; empty where there is no such program."""
    if device.type != "cuda" or shutil.which("nvidia-smi") is None:
        return {}
    name = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
    command = ["nvidia-smi", f"--query-gpu={','.join(ASKED)}", "--format=csv,noheader,nounits", "-i", name]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    values = [value.strip() for value in done.stdout.split(",")]
    return dict(zip(ASKED.values(), values, strict=True)) if len(values) == len(ASKED) else {}


def _is_busy(gpu: dict[str, str]) -> bool:
    limits = {"utilisation, %": GPU_BUSY, "memory in use, MiB": GPU_FULL}
    return any(gpu.get(name, "").isdecimal() and int(gpu[name]) > limit for name, limit in limits.items())


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())
