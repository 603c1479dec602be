"""One run per folder. The lock is the kernel's (flock): a dead process, however it died, holds nothing."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lpobench.plugin import UserError

NAME = ".lock"


class InUse(UserError):
    """Another process works in a folder."""


@contextmanager
def run_lock(folder: Path, wait: Callable[[InUse], None] | None = None) -> Iterator[None]:
    """Hold `folder`, made if missing. Raises InUse where another process has it, UserError where it is not writable.

    `wait` is called with the refusal in place of raising it, and then it is tried again. The file stays behind, empty:
    removing it would let two processes lock two files of the same name.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / NAME, "a+")  # noqa: SIM115  closed by the with below
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}; choose another --out") from None
    with file:
        while (busy := _try(file, folder)) is not None:
            if wait is None:
                raise busy
            wait(busy)
        file.truncate(0)
        file.write(f"{os.getpid()} {socket.gethostname()}\n")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def holder(folder: Path) -> str | None:
    """Who works in a folder, such as "process 7 on host"; None where nobody does. Takes and leaves nothing."""
    try:
        with open(folder / NAME) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _holder_of(folder)
    except OSError:
        return None
    return None


def _holder_of(folder: Path) -> str:
    with open(folder / NAME) as file:
        return _holder(file)


def _try(file, folder: Path) -> InUse | None:
    """Lock the file, or who has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return InUse(f"{folder} is in use by {_holder(file)}; wait for it, or choose --out")
    return None


def _holder(file) -> str:
    """Who wrote the lock file; it is empty for the instant between locking it and writing it."""
    file.seek(0)
    pid, _, host = file.read().strip().partition(" ")
    return f"process {pid} on {host}" if pid else "another process"
