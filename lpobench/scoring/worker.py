"""Official packages that cannot share this environment: each runs in its own, and is spoken to through pipes.

A worker is a script workers/run_NAME.py with PEP 723 metadata, started by `uv run --script`, which builds its
environment from the package registry once and keeps it. It stays for a whole evaluation, is started again once if it
dies, and is killed when it takes too long. It is told to keep off the network unless `online`. One JSON object per line
goes in and one comes out; what else it prints goes to stderr, whose last line stands in the error when it fails.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import subprocess
import threading
import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Self

from lpobench.plugin import MissingAsset, UserError
from lpobench.problems import hint

SCRIPTS = Path(__file__).parent / "workers"
OFFLINE = ("UV_OFFLINE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
FOREIGN = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT")
"""What would leak this environment into a worker's."""
NOT_BUILT = ("network was disabled", "not found in the cache", "no interpreter found")
"""What uv says where an environment would have to be downloaded."""


class WorkerError(UserError):
    """A worker died, took too long, or said what makes no sense."""

    exit_code = 4


@dataclass(frozen=True)
class Limits:
    """What workers may do."""

    online: bool = False
    """They may use the network: to build their environment, to fetch weights."""
    start_seconds: float = 3600
    """To build an environment and load the weights."""
    seconds: float = 900
    """For one request."""


USUAL = Limits()


def names() -> list[str]:
    """Of the workers that the project has."""
    return sorted(path.stem.removeprefix("run_").replace("_", "-") for path in SCRIPTS.glob("run_*.py"))


def script_of(name: str) -> Path:
    """Raises UserError for a name that no worker has."""
    if name not in names():
        raise UserError(f'unknown worker "{name}"; {hint(name, names())}')
    return SCRIPTS / f"run_{name.replace('-', '_')}.py"


def command_of(name: str) -> list[str]:
    """What starts a worker: uv, or the Python in $LPOBENCH_PYTHON_NAME whose environment has its packages.

    Raises MissingAsset where there is neither.
    """
    script, variable = script_of(name), f"LPOBENCH_PYTHON_{name.replace('-', '_').upper()}"
    if python := os.environ.get(variable):
        return [python, str(script)]
    if (uv := shutil.which("uv")) is None:
        raise MissingAsset(
            f"worker {name} needs uv, not installed here: `pip install uv`, or set ${variable} to a Python with its "
            "packages"
        )
    return [uv, "run", "--no-project", "--script", str(script)]


@dataclass
class Worker:
    """One worker process, started when it is first asked."""

    name: str
    options: Mapping[str, Any]
    """What it is told once: which model, which weights, which device."""
    limits: Limits = USUAL
    command: Sequence[str] = ()
    """In place of the usual one."""
    restarts: int = 1
    """How often it may die before that is an error."""
    about: dict[str, Any] = field(default_factory=dict)
    """What it says about itself: the versions of its packages."""
    _process: _Process | None = None

    def start(self) -> Self:
        """Build its environment, if need be, and load its model. Raises MissingAsset, WorkerError."""
        if self._process is None:
            self._process = _Process(self.name, self.command or command_of(self.name), self.limits)
            try:
                self.about = self._process.ask(
                    {"do": "open", "options": dict(self.options)}, self.limits.start_seconds
                )
            except _Died as death:
                self.close()
                self._explain(death)
            except BaseException:
                self.close()
                raise
        return self

    def ask(self, do: str, **what: Any) -> Any:
        """The answer to a request. Raises WorkerError and MissingAsset, one line each."""
        self.start()
        try:
            return self._process.ask({"do": do, **what}, self.limits.seconds)
        except _Died as death:
            self.close()
            if self.restarts == 0:
                raise WorkerError(f"worker {self.name} {death}; it had been started again before") from None
            self.restarts -= 1
            return self.ask(do, **what)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the process, and all that it has started."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _explain(self, death: _Died) -> None:
        """Of a worker that did not even start."""
        if not self.limits.online and any(words in death.said for words in NOT_BUILT):
            raise MissingAsset(
                f"worker {self.name} has no environment on this machine, and may not download one; --online lets it"
            ) from None
        raise WorkerError(f"worker {self.name} {death}") from None


class _Died(Exception):
    """The process ended in the middle of something."""

    def __init__(self, message: str, said: str) -> None:
        super().__init__(message)
        self.said = said


class _Process:
    """A process that answers lines with lines. Threads read what it writes, so that no pipe fills up."""

    def __init__(self, name: str, command: Sequence[str], limits: Limits) -> None:
        self.name, self.number = name, 0
        try:
            self.process = subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                errors="replace",
                env=environment(limits),
                start_new_session=True,  # Ctrl-C is ours to handle
            )
        except OSError as error:
            raise MissingAsset(f"worker {name}: cannot start {command[0]}: {error.strerror}") from error
        self.lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self.said: deque[str] = deque(maxlen=200)
        self.listener = _reading(self.process.stderr, self.said.append)
        _reading(self.process.stdout, self.lines.put, lambda: self.lines.put(None))
        weakref.finalize(self, _kill, self.process)  # also where nobody closes it

    def ask(self, request: Mapping[str, Any], seconds: float) -> Any:
        """Raises _Died, WorkerError, MissingAsset."""
        self.number += 1
        try:
            self.process.stdin.write(json.dumps({"id": self.number, **request}) + "\n")
            self.process.stdin.flush()
        except OSError:
            raise self._death() from None
        try:
            line = self.lines.get(timeout=seconds)
        except queue.Empty:
            raise WorkerError(
                f"worker {self.name} did not answer within {seconds:g} s{self._last()}"
            ) from None
        if line is None:
            raise self._death()
        return self._answer(line)

    def kill(self) -> None:
        _kill(self.process)

    def _answer(self, line: str) -> Any:
        try:
            answer = json.loads(line)
            number = answer["id"]
        except (ValueError, TypeError, KeyError):
            raise WorkerError(
                f"worker {self.name} printed what is no answer: {line.strip()[:80]!r}"
            ) from None
        if number != self.number:
            raise WorkerError(f"worker {self.name} answered request {number!r} instead of {self.number}")
        if "error" in answer:
            problem = MissingAsset if answer.get("missing") else WorkerError
            raise problem(f"worker {self.name}: {answer['error']}")
        return answer.get("ok")

    def _death(self) -> _Died:
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        self.listener.join(10)
        code = self.process.returncode
        how = "closed its pipe" if code is None else f"ended with code {code}"
        if code is not None and code < 0:
            how = f"was killed by {signal.Signals(-code).name}"
        return _Died(how + self._last(), "\n".join(self.said))

    def _last(self) -> str:
        line = next((line.strip() for line in reversed(self.said) if line.strip()), "")
        return f": {line[:300]}" if line else ""


def environment(limits: Limits) -> dict[str, str]:
    """What a worker inherits."""
    kept = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    offline = {} if limits.online else dict.fromkeys(OFFLINE, "1")
    return {**kept, "PYTHONNOUSERSITE": "1", "PYTHONIOENCODING": "utf-8", **offline}


def _reading(pipe: IO[str], put: Any, end: Any = lambda: None) -> threading.Thread:
    def read() -> None:
        with suppress(ValueError):  # closed while it is read
            for line in pipe:
                put(line)
        end()

    thread = threading.Thread(target=read, name="worker", daemon=True)
    thread.start()
    return thread


def _kill(process: subprocess.Popen[str]) -> None:
    """The whole group: uv, the Python it has started, and what that has."""
    with suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
