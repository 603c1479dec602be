"""What torchrun tells a process about its place, read without torch; and how a process ends there."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from lpobench.plugin import UserError

LAUNCHED = "LPOBENCH_LAUNCHED"
"""Set by our own launcher, which prints the errors of its processes once, to the number of its process."""
PARENT = "LPOBENCH_PARENT"
"""Set for a sweep's cell, to the number of the process that it is not to outlive."""


@dataclass(frozen=True)
class Place:
    """One process among those of a run; `local` counts those of this machine."""

    rank: int
    world: int
    local_rank: int
    local_world: int


class PeerLost(UserError):
    """Another process of this run ended; the reason is that one's to tell."""

    exit_code = 4


def place() -> Place | None:
    """This process's place; None where no torchrun started it."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    if not all(os.environ.get(name, "").isdigit() for name in (*names, "MASTER_PORT")):
        return None
    return Place(*(int(os.environ[name]) for name in names))


def is_main() -> bool:
    """Whether this process is the one that prints."""
    here = place()
    return here is None or here.rank == 0


def launched() -> bool:
    """Whether our own launcher started this process."""
    return LAUNCHED in os.environ and place() is not None


def die_with_parent() -> None:
    """Where the system can do that (Linux): be killed when the launcher is, instead of running on unseen."""
    parent = os.environ.pop(PARENT, None)  # this process's, not its children's
    if launched():
        parent = os.environ[LAUNCHED]
    if parent is not None and sys.platform == "linux":
        PR_SET_PDEATHSIG = 1
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != int(parent):  # it was killed before this could be asked for
            os._exit(1)


def death(code: int) -> str:
    """How a process ended that could not say it: "was killed by SIGTERM", "ended with code 1"."""
    if code >= 0:
        return f"ended with code {code}"
    name = signal.Signals(-code).name
    hint = "; the system kills so what takes too much memory" if name == "SIGKILL" else ""
    return f"was killed by {name}{hint}"


def report(message: str, error: BaseException, code: int) -> None:
    """Leave the reason of a failure where torchrun looks for it; its launcher sees exit codes only."""
    if path := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        now = time.time()
        extra = {"py_callstack": message, "timestamp": str(int(now))}
        verdict = {"code": code, "line": message, "time": now, "lost": isinstance(error, PeerLost)}
        document = {"message": {"message": message, "errorCode": code, "extraInfo": extra}, **verdict}
        Path(path).write_text(json.dumps(document))
