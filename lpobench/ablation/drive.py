"""Running a sweep: each cell once, shared reward trainings first, and the sweep's record kept up to date.

The driver holds no state that matters: what is complete is seen from the runs' own records, so it may be killed and
started again. A cell that another process is at work on is waited for.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from lpobench.ablation.cells import Plan, Planned, is_complete
from lpobench.launch.jobs import PAUSE, SAVED, Ended, Job, Launcher
from lpobench.lock import NAME, InUse, run_lock
from lpobench.plugin import UserError
from lpobench.records.sweep import FILE, Cell, Sweep
from lpobench.signals import Preempted, StopFlag

PROGRAM = (sys.executable, "-m", "lpobench")
LOGS = "logs"


@dataclass
class Task:
    """A job of the sweep: a cell, or a training that several cells share."""

    job: Job
    planned: Planned | None
    after: str | None = None
    """The job that must have succeeded before."""
    began: float = 0.0

    @property
    def took(self) -> str:
        seconds = time.monotonic() - self.began
        return f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min"


@dataclass
class Drive:
    """One attempt at a sweep."""

    plan: Plan
    out: Path
    launcher: Launcher
    say: Callable[[str], None]
    program: Sequence[str] = PROGRAM
    waiting: list[Task] = field(default_factory=list)
    running: dict[str, Task] = field(default_factory=dict)
    succeeded: set[str] = field(default_factory=set)
    told: set[str] = field(default_factory=set)
    """Runs of others that are being waited for."""
    told_to_stop: bool = False

    def __post_init__(self) -> None:
        self.folder = (self.out / self.plan.folder).absolute()
        self.sweep = _continued(self.plan.sweep, self.folder)
        self.tasks: list[Task] = _tasks(self.plan, self.folder, self.program)
        self.waiting = list(self.tasks)

    def run(self) -> Sweep:
        """Every cell that is not complete, once; a cell that fails stops no other. Raises Preempted when told to
        stop, after all jobs have saved and left.
        """
        with run_lock(self.folder), StopFlag() as stop, self.launcher if self.tasks else nullcontext():
            self.sweep = self.sweep.write(self.folder)
            while self.waiting or self.running:
                for ended in self.launcher.ended():
                    self._end(ended, stop)
                if not stop.requested:
                    self._start()
                elif not self.told_to_stop:
                    self._stop()
                time.sleep(PAUSE)
            self._finish()
        if left := [cell for cell in self.sweep.cells if cell.state == "planned"]:
            raise Preempted(
                f"{stop.reason or 'interrupted'}: {len(left)} of {len(self.sweep.cells)} cells are still to be done; "
                "the same command goes on from there"
            )
        return self.sweep

    def _start(self) -> None:
        """As many jobs as there is room for, in order; those that have to wait are passed over."""
        for task in list(self.waiting):
            if not self.launcher.room():
                return
            if task.after is not None and task.after not in self.succeeded:
                continue
            if task.planned and not self.launcher.has(task.job.name) and not self._free(task.planned):
                continue
            self.waiting.remove(task)
            if task.planned and is_complete(self.out / task.planned.cell.run, task.planned.spec):
                self._complete(task, "made by another process")
                continue
            self.running[task.job.name] = task
            task.began = time.monotonic()
            self.launcher.start(task.job)
            self._say(task, f"{self.launcher.word}; log {self.log_of(task)}")
            if task.planned:
                self._note(task.planned, log=str(task.job.log.relative_to(self.folder)))

    def _stop(self) -> None:
        """No further job; those that run save and leave."""
        self.told_to_stop = True
        self.waiting.clear()
        self.launcher.stop()

    def _free(self, planned: Planned) -> bool:
        """Whether nobody is at work on the run."""
        run = planned.cell.run
        holder = in_use(self.out / run)
        if holder and run not in self.told:
            self.told.add(run)
            self.say(f"waiting: {holder}")
        return holder is None

    def _end(self, ended: Ended, stop: StopFlag) -> None:
        task = self.running.pop(ended.name)
        planned = task.planned
        good = ended.code == 0
        if planned and is_complete(self.out / planned.cell.run, planned.spec, looked=good):
            return self._complete(task, f"complete after {task.took}")
        if good and planned is None:
            self.succeeded.add(ended.name)
            return self._say(task, f"ready after {task.took}")
        if ended.code == SAVED or (stop.requested and not good):
            self._say(task, "interrupted; it goes on from where it was")
            return self._drop(task, None)
        if planned and not stop.requested and in_use(self.out / planned.cell.run):
            return self.waiting.append(task)  # somebody else was a moment earlier
        self._fail(task, ended.reason or "it ended well, but left no complete record")
        return None

    def _complete(self, task: Task, how: str) -> None:
        assert task.planned is not None
        self._note(task.planned, state="complete", error=None)
        self._say(task, how)

    def _fail(self, task: Task, reason: str) -> None:
        self._say(task, f"failed after {task.took}: {reason}")
        if task.planned:
            self._note(task.planned, state="failed", error=reason)
        self._drop(task, f"its reward model was not trained: {reason}")

    def _drop(self, task: Task, reason: str | None) -> None:
        """What depends on a task that has not succeeded cannot be done; failed with the reason, if there is one."""
        for other in [other for other in self.waiting if other.after == task.job.name]:
            self.waiting.remove(other)
            if reason and other.planned:
                self._note(other.planned, state="failed", error=reason)

    def _note(self, planned: Planned, **changes: str | None) -> None:
        """Change a cell in the sweep's record."""
        cells = tuple(
            cell.model_copy(update=changes) if cell.run == planned.cell.run else cell
            for cell in self.sweep.cells
        )
        self.sweep = self.sweep.model_copy(update={"cells": cells}).write(self.folder)

    def _finish(self) -> None:
        if not self.sweep.finished and all(cell.state != "planned" for cell in self.sweep.cells):
            self.sweep = self.sweep.model_copy(update={"finished": datetime.now(UTC)}).write(self.folder)

    def log_of(self, task: Task) -> Path:
        """As the user would type it."""
        return self.out / self.plan.folder / LOGS / task.job.log.name

    def _say(self, task: Task, what: str) -> None:
        done = sum(cell.state == "complete" for cell in self.sweep.cells)
        self.say(f"[{done}/{len(self.sweep.cells)}] {name_of(task, self.sweep)}: {what}")


def name_of(task: Task, sweep: Sweep) -> str:
    """What messages call a task."""
    return f"{task.job.name} model" if task.planned is None else name_of_cell(task.planned.cell, sweep)


def name_of_cell(cell: Cell, sweep: Sweep) -> str:
    """Its label, with the seed where there are several."""
    axis = f"{sweep.axes[0].label} " if len(sweep.axes) == 1 else ""
    return f"{axis}{cell.label}" + (f", seed {cell.seed}" if len(sweep.seeds) > 1 else "")


def in_use(folder: Path) -> InUse | None:
    """Who works in a run's folder, if anybody does."""
    if not (folder / NAME).exists():
        return None
    try:
        with run_lock(folder):
            return None
    except InUse as busy:
        return busy


def _tasks(plan: Plan, folder: Path, program: Sequence[str]) -> list[Task]:
    """What is to be done: trainings that several cells share, and the cells."""
    here, shared, tasks = Path.cwd(), {}, []
    for number, (training, cells) in enumerate(plan.trainings.items()):
        if len(cells) > 1:
            name = f"reward-{number}" if len(plan.trainings) > 1 else "reward"
            shared[training] = name
            command = (*program, *cells[0].training_words)
            tasks.append(Task(Job(name, command, folder / LOGS / f"{name}.log", here), None))
    for planned in plan.cells:
        if planned.cell.state != "complete":
            run = planned.cell.run
            job = Job(run, (*program, *planned.words), folder / LOGS / f"{run}.log", here)
            tasks.append(Task(job, planned, shared.get(planned.training or "")))
    if len(shared) == 1 and all(task.after for task in tasks[1:]) and plan.cells[0].spec.device != "mps":
        tasks[0].job = replace(tasks[0].job, first=True)
    return tasks


def _continued(sweep: Sweep, folder: Path) -> Sweep:
    """With when it was first started, where its logs are and when it was complete, if it has been begun before."""
    if not (folder / FILE).exists():
        return sweep
    try:
        earlier = Sweep.read(folder)
    except UserError:  # damaged: what is complete is seen from the runs
        return sweep
    logs = {cell.run: cell.log for cell in earlier.cells}
    cells = tuple(cell.model_copy(update={"log": logs.get(cell.run)}) for cell in sweep.cells)
    done = earlier.finished if all(cell.state == "complete" for cell in cells) else None
    return sweep.model_copy(update={"started": earlier.started, "finished": done, "cells": cells})
