"""Jobs on a Ray cluster: an existing one by its address, or one that is started here and ends with the sweep.

Every node needs this environment and the folder of the runs at the same paths, as on a shared file system.
"""

from __future__ import annotations

import os
import signal
from types import ModuleType, TracebackType
from typing import Any, Self

from lpobench.launch.jobs import Ended, Job, perform
from lpobench.plugin import MissingAsset, UserError

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""That Ray takes for itself when it starts, and that are the sweep's."""
STORE = 2**27
"""Bytes of a local cluster's object store: what goes through it are jobs' names and exit codes."""


class OnRay:
    """A job is a task that starts the job's process and waits for it. `gpus` None: one where the cluster has any."""

    word = "submitted"

    def __init__(
        self,
        address: str | None = None,
        *,
        cpus: int | None = None,
        gpus: int | None = None,
        limit: int | None = None,
    ) -> None:
        self.address, self.cpus, self.gpus, self.limit = address, cpus or 1, gpus, limit
        self.running: dict[Any, Job] = {}

    def __enter__(self) -> Self:
        self.ray = _ray()
        handlers = {number: signal.getsignal(number) for number in SIGNALS}
        here = {} if self.address else {"include_dashboard": False, "object_store_memory": STORE}
        try:
            self.ray.init(self.address or "local", log_to_driver=False, logging_level="ERROR", **here)
        except ConnectionError as error:
            raise UserError(f"no Ray cluster at {self.address}: {str(error).splitlines()[0]}") from None
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        if self.gpus is None:
            self.gpus = 1 if self.ray.cluster_resources().get("GPU") else 0
        self._check_room()
        self.task = self.ray.remote(num_cpus=self.cpus, num_gpus=self.gpus, max_retries=0)(perform)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for reference in self.running:
            self.ray.cancel(reference, force=True)
        self.ray.shutdown()

    def room(self) -> bool:
        return self.limit is None or len(self.running) < self.limit

    def has(self, name: str) -> bool:
        return False  # they end with the process that started them

    def start(self, job: Job) -> None:
        self.running[self.task.options(name=job.name).remote(job)] = job

    def ended(self) -> list[Ended]:
        if not self.running:
            return []
        done, _ = self.ray.wait(list(self.running), num_returns=len(self.running), timeout=0)
        return [self._result(reference, self.running.pop(reference)) for reference in done]

    def stop(self) -> None:
        for reference in self.running:
            self.ray.cancel(reference)  # Ctrl-C for the task: `perform` passes it on and waits

    def _result(self, reference: Any, job: Job) -> Ended:
        try:
            return self.ray.get(reference)
        except self.ray.exceptions.RayError as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            return Ended(
                job.name, None, f"its Ray worker was lost: {lines[0] if lines else type(error).__name__}"
            )

    def _check_room(self) -> None:
        """A task that no node can hold would wait for ever."""
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        if not any(node.get("CPU", 0) >= self.cpus and node.get("GPU", 0) >= self.gpus for node in nodes):
            have = ", ".join(f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes)
            self.ray.shutdown()
            raise UserError(f"no node has {self.cpus} CPUs and {self.gpus} GPUs for a cell; there is: {have}")


def _ray() -> ModuleType:
    """Ray, told not to send the working folder to its workers under `uv run`, to hide GPUs from what asks for none, and
    to give workers more of the CPU than other processes leave.
    """
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")
    os.environ.setdefault("RAY_worker_niceness", "0")
    try:
        import ray
        import ray.exceptions
    except ImportError:
        raise MissingAsset('launcher ray needs Ray: pip install "lpobench[ray]"') from None
    return ray
