"""Out of memory: work that is halved until it fits, by all processes together, and one line where it never does.
And, on a CPU, memory that is kept between two steps.
"""

from __future__ import annotations

import ctypes
import gc
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from lpobench.launch import ranks
from lpobench.plugin import UserError

T = TypeVar("T")

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Of glibc's mallopt."""
CHOSEN = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES")
"""Environment variables of who has chosen how memory is kept."""


class OutOfMemory(UserError):
    """The device has no memory left for something that cannot be made smaller."""

    exit_code = 4


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says so: torch has a class for it on accelerators only."""
    plain = any(words in str(error) for words in ("can't allocate memory", "_STATUS_ALLOC_FAILED"))
    return plain or isinstance(error, torch.OutOfMemoryError | MemoryError)


def free() -> None:
    """Give back what a failed attempt left cached."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def keep_freed() -> bool:
    """Have glibc keep up to 2 GiB of what tensors on the CPU free, as long as they are below 32 MiB each.

    By itself it keeps 64 MiB at most: what a step needs beyond is asked of the kernel again, which fills it with
    zeros first, at every step. Larger tensors still are, so that none leaves a hole behind. Whether it was done:
    there are other C libraries, and a choice made in the environment stands.
    """
    if platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in CHOSEN):
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(MMAP_THRESHOLD, 2**25) and libc.mallopt(TRIM_THRESHOLD, 2**31 - 1))


def fitted(attempt: Callable[[], T], halve: Callable[[], None]) -> T:
    """What `attempt` makes; `halve` is called and it is tried again as long as any process is out of memory.

    `halve` raises OutOfMemory where nothing is left to halve. To be called by all processes; `attempt` must
    not wait for the others.
    """
    while True:
        made: list[T] = []
        try:
            made.append(attempt())
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        if not ranks.anywhere(not made):
            return made[0]
        made.clear()
        free()
        halve()


@contextmanager
def explained(doing: str, advice: str) -> Iterator[None]:
    """Turn an out-of-memory error into OutOfMemory, one line: while doing what, and what would need less."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(f"out of memory {doing}; {advice}") from error
