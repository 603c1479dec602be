"""One run per folder. The lock is the kernel's (flock): a dead process, however it died, holds nothing."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lpobench.plugin import UserError

NAME = ".lock"


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold `folder`, made if missing. Raises UserError where another process has it or it is not writable.

    The file stays behind, empty: removing it would let two processes lock two files of the same name.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / NAME, "a+")  # noqa: SIM115  closed by the with below
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}; choose another --out") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{folder} is in use by {_holder(file)}; wait for it, or choose --out") from None
        file.truncate(0)
        file.write(f"{os.getpid()} {socket.gethostname()}\n")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def _holder(file) -> str:
    """Who wrote the lock file; it is empty for the instant between locking it and writing it."""
    file.seek(0)
    pid, _, host = file.read().strip().partition(" ")
    return f"process {pid} on {host}" if pid else "another process"
