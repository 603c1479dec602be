"""Jobs on a Slurm cluster, through submitit. They outlive the sweep's own process: the same command finds them again.

`cluster=local` among the options runs them on this machine under submitit's local executor, to try things.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import FrameType, ModuleType, TracebackType
from typing import Any, Self

from lpobench.launch.jobs import Child, Ended, Job
from lpobench.plugin import MissingAsset, UserError

JOBS = "jobs.json"
A_DAY = 24 * 60


class OnSlurm:
    """`folder` keeps submitit's files and which job is whose; `options` are those of submitit's update_parameters.
    Without numbers of `cpus` and `gpus`, the cluster's own defaults hold.
    """

    word = "submitted"

    def __init__(
        self,
        folder: Path,
        options: Mapping[str, Any],
        *,
        cpus: int | None = None,
        gpus: int | None = None,
        limit: int | None = None,
    ) -> None:
        self.folder, self.limit = folder, limit
        self.cluster = str(options.get("cluster", "slurm"))
        defaults = {"timeout_min": A_DAY, "tasks_per_node": 1, "nodes": 1}
        asked = {"cpus_per_task": cpus, "gpus_per_node": gpus}
        given = {key: value for key, value in asked.items() if value is not None}
        self.options = defaults | given | {key: value for key, value in options.items() if key != "cluster"}
        self.running: dict[str, Any] = {}
        """Submitit's jobs, by name."""

    def __enter__(self) -> Self:
        self.submitit = _submitit()
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self.executor = self.submitit.AutoExecutor(self.folder, cluster=self.cluster)
            self.executor.update_parameters(**self.options)
        except (RuntimeError, ValueError, NameError, TypeError) as error:
            raise UserError(f"launcher slurm: {' '.join(str(error).split())}") from None
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Jobs that still run go on: they are the cluster's."""

    def room(self) -> bool:
        return self.limit is None or len(self.running) < self.limit

    def has(self, name: str) -> bool:
        return self._earlier(name) is not None

    def start(self, job: Job) -> None:
        """Submit it, unless it is there already."""
        submitted = self._earlier(job.name)
        if submitted is None:
            self.executor.update_parameters(name=job.name)
            submitted = self.executor.submit(Submitted(job))
            known = {**self._known(), job.name: submitted.job_id}
            (self.folder / JOBS).write_text(json.dumps(known, indent=1))
        self.running[job.name] = submitted

    def ended(self) -> list[Ended]:
        done = [name for name, submitted in self.running.items() if submitted.done()]
        return [self._result(name, self.running.pop(name)) for name in done]

    def stop(self) -> None:
        for submitted in self.running.values():
            if self.cluster == "slurm":
                subprocess.call(["scancel", "--state=PENDING", submitted.job_id])
                subprocess.call(["scancel", "--signal=TERM", submitted.job_id])
            else:  # its controller, which passes it on
                os.kill(int(submitted.job_id), signal.SIGTERM)

    def _result(self, name: str, submitted: Any) -> Ended:
        errors = self.submitit.core.utils.UncompletedJobError, self.submitit.core.utils.FailedJobError
        try:
            return submitted.result()
        except errors as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            reason = lines[0] if lines else type(error).__name__
            return Ended(name, None, f"job {submitted.job_id} was lost ({submitted.state}): {reason}")

    def _earlier(self, name: str) -> Any | None:
        """The job of this name that is queued or runs, submitted by an earlier process of the sweep."""
        number = self._known().get(name) if self.cluster == "slurm" else None
        job = self.submitit.SlurmJob(self.folder, number) if number else None
        return None if job is None or job.done(force_check=True) else job

    def _known(self) -> dict[str, str]:
        """Names of jobs and submitit's numbers for them."""
        path = self.folder / JOBS
        return json.loads(path.read_text()) if path.exists() else {}


class Submitted:
    """What the cluster runs: a job's process. SIGTERM is passed on to it; before a time limit it saves and is
    submitted again.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.child: Child | None = None

    def __call__(self) -> Ended:
        self.child = Child(self.job)
        signal.signal(signal.SIGTERM, self._stop)
        self.child.process.wait()
        ended = self.child.ended()
        assert ended is not None
        return ended

    def checkpoint(self) -> Any:
        """Called by submitit in the job, when its time is nearly over or its place is needed."""
        assert self.child is not None
        self.child.stop()
        self.child.process.wait()
        return _submitit().helpers.DelayedSubmission(Submitted(self.job))

    def _stop(self, number: int, frame: FrameType | None) -> None:
        assert self.child is not None
        self.child.stop()


def _submitit() -> ModuleType:
    try:
        import submitit
    except ImportError:
        raise MissingAsset('launcher slurm needs submitit: pip install "lpobench[slurm]"') from None
    return submitit
