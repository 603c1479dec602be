"""Jobs on this machine: one per slot, each slot with GPUs of its own, or with a share of the cores. A job that all
others wait for has all slots, a process for each GPU or share.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Self

from lpobench.launch.jobs import Child, Ended, Job
from lpobench.plugin import UserError

VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass
class Local:
    """A slot is the environment variables of the jobs that run in it."""

    slots: Sequence[dict[str, str]]
    running: dict[int, Child] = field(default_factory=dict)
    """By slot."""
    word: str = "started"
    full: bool = False
    """Whether what runs has all slots."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for child in self.running.values():
            child.kill()

    def room(self) -> bool:
        return not self.full and len(self.running) < len(self.slots)

    def has(self, name: str) -> bool:
        return False  # they end with the process that started them

    def start(self, job: Job) -> None:
        slot = next(number for number in range(len(self.slots)) if number not in self.running)
        self.full = job.first and not self.running and len(self.slots) > 1
        job = spread(job, self.slots) if self.full else with_variables(job, self.slots[slot])
        self.running[slot] = Child(job)

    def ended(self) -> list[Ended]:
        found = {slot: ended for slot, child in self.running.items() if (ended := child.ended())}
        for slot in found:
            del self.running[slot]
            self.full = False
        return list(found.values())

    def stop(self) -> None:
        for child in self.running.values():
            child.stop()


def with_variables(job: Job, variables: dict[str, str]) -> Job:
    return replace(job, variables={**job.variables, **variables})


def spread(job: Job, slots: Sequence[dict[str, str]]) -> Job:
    """The job in as many processes as there are GPUs in all slots, or slots without any."""
    gpus = [gpu for slot in slots for gpu in slot.get(VISIBLE, "").split(",") if gpu]
    words = ("--gpus", str(len(gpus))) if gpus else ("--gpus", str(len(slots)), "--set", "device=cpu")
    variables = {**slots[0], VISIBLE: ",".join(gpus)} if gpus else slots[0]
    return with_variables(replace(job, command=(*job.command, *words)), variables)


def slots_for(
    jobs: int | None, gpus: int | None, present: Sequence[str], cores: int, threads: int | None
) -> list[dict[str, str]]:
    """Environments for `jobs` jobs at a time, of `gpus` GPUs each, of those `present`. Raises UserError.

    Without a number of jobs: as many as there are GPUs for, or one. Without one of GPUs: one each where there are any;
    0 hides them. `threads` of CPU each; without, a fair share of the cores, unless OMP_NUM_THREADS says otherwise
    already.
    """
    hidden = {VISIBLE: ""} if gpus == 0 else {}
    gpus = min(1, len(present)) if gpus is None else gpus
    most = len(present) // gpus if gpus else jobs or 1
    count = most if jobs is None else jobs
    if gpus and not 0 < count <= most:
        have = f"{len(present) or 'no'} GPU{'s'[: len(present) != 1]}"
        raise UserError(
            f"{count or 1} job(s) of {gpus} GPU(s) at a time: {have} here; --gpus 0 runs on the CPU"
        )
    slots = [{VISIBLE: ",".join(present[n * gpus : (n + 1) * gpus])} for n in range(count)]
    if not gpus:
        slots = [dict(hidden) for _ in range(count)]
    if threads is None and count > 1 and "OMP_NUM_THREADS" not in os.environ:
        threads = max(1, cores // count)
    return [{**slot, "OMP_NUM_THREADS": str(threads)} for slot in slots] if threads else slots


def gpus_here() -> list[str]:
    """What that variable would call them."""
    listed = os.environ.get(VISIBLE)
    if listed is not None:
        return [name for name in map(str.strip, listed.split(",")) if name and name != "-1"]
    # in a process of its own: a sweep may take days, and needs no torch
    script = "from lpobench.launch.torchrun import gpus_here; print(gpus_here())"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return [str(number) for number in range(int(found.stdout))]
