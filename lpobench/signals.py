"""Being asked to stop: SIGTERM, SIGINT and SIGUSR1 raise a flag; the loop that reads it saves and leaves."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Self

from lpobench.launch import environment
from lpobench.plugin import UserError

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class Preempted(UserError):
    """Stopped on request, everything saved: the same command goes on from there. Code: EX_TEMPFAIL."""

    exit_code = 75


class StopFlag:
    """`with StopFlag() as stop:` turns a stop signal into `stop.requested`; a second Ctrl-C interrupts.

    Outside the main thread, where Python allows no handlers, the flag can only be raised by `request`.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self._interrupts = 0
        self._previous: dict[int, object] = {}

    @property
    def requested(self) -> bool:
        return self.reason is not None

    def request(self, reason: str) -> None:
        """Raise the flag; the first reason is kept."""
        self.reason = self.reason or reason

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._receive) for number in SIGNALS}
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._previous = {}

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        self._interrupts += number == signal.SIGINT
        if self._interrupts > 1:
            raise KeyboardInterrupt
        if not self.requested:
            self.request(signal.Signals(number).name)
            # os.write: a handler may interrupt a print to the same stream, which must not be re-entered
            line = f"\n{self.reason}: finishing this step, then saving and leaving\n"
            os.write(2, line.encode() if environment.is_main() else b"")
