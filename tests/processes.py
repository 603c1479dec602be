"""Processes that tests start: none outlives its test or the test process, and none is waited for without end.

A test never forks its own process: the copy has one thread only, and objects that wait for their own threads, such as
a TCPStore, crash it when they are collected. Scripts that need forks fork before they have threads.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

TESTS = Path(__file__).parent
PATIENCE = 240
"""Seconds; many times what anything here takes."""


def die_with(parent: int) -> None:
    """Be killed (Linux) when this process's parent, the process given, dies; at once if it already has."""
    if sys.platform == "linux":
        PR_SET_PDEATHSIG = 1
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


@contextmanager
def started(words: Sequence[object], **variables: str | None) -> Iterator[subprocess.Popen[str]]:
    """Python with these words and variables (None: without it), which finds the tests' modules.

    At the end it is killed, and its whole process group.
    """
    path = [str(TESTS), str(TESTS.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path), **variables}
    command = [sys.executable, "-S", __file__, str(os.getpid()), *map(str, words)]
    with subprocess.Popen(
        command,
        env={name: value for name, value in environment.items() if value is not None},
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def ended(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    """Code and output of a started process. Raises TimeoutExpired."""
    out, err = process.communicate(timeout=PATIENCE)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def finished(words: Sequence[object], **variables: str | None) -> subprocess.CompletedProcess[str]:
    """Python with these words, run to its end; see `started`."""
    with started(words, **variables) as process:
        return ended(process)


def worked(words: Sequence[object], **variables: str | None) -> str:
    """What it prints; it must end well."""
    done = finished(words, **variables)
    assert done.returncode == 0, done.stderr
    return done.stdout


def wait_for(happened: Callable[[], bool], what: str, process: subprocess.Popen[str] | None = None) -> None:
    """Wait until something has happened; fail at once when the process that should do it ends before."""
    deadline = time.monotonic() + PATIENCE
    while not happened():
        if process is not None and process.poll() is not None:
            raise AssertionError(f"{what}: the process ended with {process.returncode}")
        assert time.monotonic() < deadline, f"{what}: not within {PATIENCE} s"
        time.sleep(0.02)


if __name__ == "__main__":
    die_with(int(sys.argv[1]))
    os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
