"""Work that is killed and resumed: for scripts that fork, and so start nothing else before."""

import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from processes import die_with

Work = Callable[[Path], object]
"""Does everything that is left to do in a folder."""


@dataclass(frozen=True)
class Survived:
    """What a work's result was equal after."""

    files: int
    at_work: int
    """Kills at a random moment that came before the end."""
    renames: int


def survive(
    work: Work, read: Callable[[Path], dict[str, bytes]], folder: Path, kills: int, renames: int, seed: int
) -> Survived:
    """Kill the work at random moments, then before each renaming of a file, or `renames` of them, evenly spread.

    Leaves with one line unless what `read` finds is, once resumed, byte for byte that of a work nobody disturbed.
    """
    rng, times = random.Random(seed), []
    for out in (folder / "straight", folder / "again"):
        started = time.monotonic()
        in_child(work, out)
        times.append(time.monotonic() - started)
    wanted = read(folder / "straight")
    compare(folder / "again", read, wanted)
    at_work, done = 0, 0
    for kill in range(kills):
        out = folder / f"killed-{kill}"
        at_work += in_child(work, out, seconds=rng.uniform(0, min(times)))
        in_child(work, out)
        compare(out, read, wanted)
    for rename in count(0, max(1, len(wanted) // renames)):
        out = folder / f"rename-{rename}"
        if not in_child(work, out, rename=rename):
            break
        in_child(work, out)
        compare(out, read, wanted)
        done += 1
    return Survived(len(wanted), at_work, done)


def in_child(work: Work, out: Path, *, seconds: float | None = None, rename: int | None = None) -> bool:
    """Do the work in a child, killed after some seconds, or just before a file gets its name; whether that met it
    at work. Nothing else may be running: a fork copies one thread."""
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        die_with(parent)
        code = 1
        try:
            if rename is not None:
                os.replace = killed_at(rename)
            work(out)
            code = 0
        finally:
            os._exit(code)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    if os.WEXITSTATUS(status):
        raise SystemExit(f"the work in {out} failed")
    return False


def killed_at(rename: int) -> Callable[..., None]:
    """`os.replace` that kills its process instead of renaming, the given number of times after the first."""
    counter, real = count(), os.replace

    def replace(*paths) -> None:
        if next(counter) == rename:
            os.kill(os.getpid(), signal.SIGKILL)
        real(*paths)

    return replace


def compare(out: Path, read: Callable[[Path], dict[str, bytes]], wanted: dict[str, bytes]) -> None:
    """Leave with what differs or is left over, if anything is."""
    found = read(out)
    if other := sorted(name for name in {**found, **wanted} if found.get(name) != wanted.get(name)):
        raise SystemExit(f"{out}: {', '.join(other)} differ")
    if left := list(out.rglob(".*.tmp")):
        raise SystemExit(f"{left[0]} is left over")
