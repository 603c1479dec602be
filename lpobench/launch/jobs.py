"""A job is one command in a process of its own, with a log; a launcher decides where and when it runs.

Launchers differ in nothing else: `perform` is what all of them do with a job, so that they leave the same records.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from lpobench.launch.environment import PARENT, death

SAVED = 75
"""Exit code of a command that was told to stop, has saved and can go on."""
ERROR = "error: "
UNEXPECTED = f"{ERROR}unexpected"
"""What the last line of a crash begins with; the line before says what it was."""
TAIL = 16_384
PAUSE = 0.2
"""Seconds between looks at a process."""


@dataclass(frozen=True)
class Job:
    """A command and where it says what it does."""

    name: str
    """Unique among the jobs of a sweep."""
    command: tuple[str, ...]
    log: Path
    """Appended to: each attempt begins with a line of its own."""
    folder: Path
    """Where it is run."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """Added to the environment."""
    first: bool = False
    """Whether all others wait for it: a verb that takes --gpus, and may be given what they would have."""


@dataclass(frozen=True)
class Ended:
    """What became of a job."""

    name: str
    code: int | None
    """As a shell has it, negative for a signal; None where whoever ran it was lost."""
    reason: str
    """In a line; of code 0, nothing."""


class Launcher(Protocol):
    """Runs jobs somewhere, several at a time. A context: at its end no job runs that it could have ended."""

    word: str
    """What a job is once it was given to `start`."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def room(self) -> bool:
        """Whether another job may be started now."""
        ...

    def has(self, name: str) -> bool:
        """Whether an earlier process of the sweep started this job, and it still waits or runs: `start` finds it."""
        ...

    def start(self, job: Job) -> None: ...

    def ended(self) -> list[Ended]:
        """The jobs that have ended since this was last asked."""
        ...

    def stop(self) -> None:
        """Tell every job to save and leave; `ended` reports them when they have."""
        ...


class Child:
    """A job's process here, in a session of its own: a Ctrl-C is for the launcher to pass on."""

    def __init__(self, job: Job) -> None:
        job.log.parent.mkdir(parents=True, exist_ok=True)
        self.job = job
        with job.log.open("ab") as log:
            log.write(f"--- {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC: {job.name}\n".encode())
            log.flush()
            self.began = log.tell()
            self.process = subprocess.Popen(
                job.command,
                cwd=job.folder,
                env={**os.environ, **job.variables, PARENT: str(os.getpid())},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def ended(self) -> Ended | None:
        """None while it runs."""
        if (code := self.process.poll()) is None:
            return None
        said = "" if code == 0 else death(code) if code < 0 else last_line(self.job.log, self.began)
        return Ended(self.job.name, code, said or ("" if code == 0 else death(code)))

    def stop(self) -> None:
        """It saves and leaves."""
        self.process.terminate()

    def kill(self) -> None:
        """It, and what it started."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def perform(job: Job) -> Ended:
    """Run a job to its end, from a process that does nothing else. Ctrl-C, as launchers cancel, has it save."""
    child = Child(job)
    while True:
        try:
            if (ended := child.ended()) is not None:
                return ended
            time.sleep(PAUSE)
        except KeyboardInterrupt:
            child.stop()


def last_line(log: Path, start: int = 0) -> str:
    """The last error that was told in a log after `start`, or else the last line; of a crash, what it was."""
    with log.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(start, size - TAIL))
        text = file.read().decode(errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    told = [place for place, line in enumerate(lines) if line.startswith(ERROR)]
    place = told[-1] if told else len(lines) - 1
    place -= place > 0 and lines[place].startswith(UNEXPECTED)
    return lines[place].removeprefix(ERROR) if lines else ""
