"""Repeated timing of one action: warm-up, median, quartiles."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from lpobench.records.provenance import peak_resident_bytes


@dataclass(frozen=True)
class Timing:
    """Wall seconds of one action, over `n` repeats after the warm-up."""

    median: float
    low: float
    """25 % quantile."""
    high: float
    """75 % quantile."""
    n: int
    peak_memory_bytes: int
    """While it ran: what torch allocated on an accelerator; on a CPU, resident memory of the process so far."""


def measure(action: Callable[[], object], device: torch.device, *, warmup: int, repeats: int) -> Timing:
    """Time `action` on a device; each repeat is waited for. The peak counts the warm-up too."""
    forget_peak(device)
    for _ in range(warmup):
        action()
    seconds = []
    for _ in range(repeats):
        synchronize(device)
        began = time.perf_counter()
        action()
        synchronize(device)
        seconds.append(time.perf_counter() - began)
    low, median, high = np.quantile(seconds, (0.25, 0.5, 0.75)).tolist()
    return Timing(median, low, high, repeats, peak_memory(device))


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def forget_peak(device: torch.device) -> None:
    """Start a new peak, where a device keeps one."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> int:
    """Bytes, since `forget_peak` on an accelerator, else of the whole process."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_resident_bytes()
