"""`--gpus` and `--nodes`: the same command once per GPU, under torchrun. No torch before it is needed.

The launcher adds three things to torchrun: a failed run ends in the one line and the exit code of the process
that failed first; a stop signal is passed on and waited for as long as saving takes; and when the launcher
itself is killed its processes are too. `torchrun --nproc-per-node 2 -m lpobench run ...` works as well.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lpobench.launch import environment
from lpobench.plugin import UserError

FORWARDED = "SIGTERM,SIGUSR1,SIGHUP"
SAVING = 24 * 3600
"""Seconds that processes are given to save and leave after a stop signal."""


@dataclass(frozen=True)
class Plan:
    """Processes on this machine, and where it is among the machines."""

    local: int
    nodes: int = 1
    node: int = 0
    address: str = "localhost"
    port: int = 0
    """0 is any free one, which only a single machine can use."""


def ran(words: Sequence[str], device: str, gpus: int | None, nodes: int | None) -> bool:
    """Run the command line `words` in several processes, if that is what was asked for and not done yet.

    False: this process has to do the work itself. Raises UserError, with the exit code of what failed.
    """
    if (here := environment.place()) is not None:
        if gpus not in (None, here.local_world):
            raise UserError(
                f"--gpus {gpus}: torchrun has started {here.local_world} processes on this machine"
            )
        return False
    if gpus is None and nodes is None:
        return False
    plan = plan_for(device, gpus, nodes or 1, gpus_here() if device != "cpu" else 0, os.environ)
    if plan.local * plan.nodes == 1:
        return False
    launch(plan, ["-m", "lpobench", *words])
    return True


def gpus_here() -> int:
    import torch

    return torch.cuda.device_count()


def plan_for(device: str, gpus: int | None, nodes: int, present: int, env: Mapping[str, str]) -> Plan:
    """What to start on this machine, which has `present` GPUs. Raises UserError where it cannot be."""
    if device == "cpu":
        local = gpus or 1
    elif device in ("auto", "cuda"):
        local = present if gpus is None else gpus
        if not 0 < local <= present:
            raise UserError(
                f"--gpus {local}: this machine has {present or 'no'} GPU{'s'[: present != 1]}; "
                "--set device=cpu starts as many processes on the CPU"
            )
    else:
        raise UserError(f'--gpus and --nodes need device auto, cuda or cpu, not "{device}"')
    if nodes == 1:
        return Plan(local)
    node, address = _node(env), env.get("MASTER_ADDR") or _first_host(env.get("SLURM_JOB_NODELIST", ""))
    if node is None or not address:
        raise UserError(
            f"--nodes {nodes} needs NODE_RANK (this machine's number, from 0) and MASTER_ADDR (the address of "
            "machine 0) in the environment; under SLURM one task per node is enough"
        )
    if not node < nodes:
        raise UserError(f"--nodes {nodes}: this machine's number is {node}, they go from 0 to {nodes - 1}")
    return Plan(local, nodes, node, address, int(env.get("MASTER_PORT") or 29500))


def launch(plan: Plan, arguments: Sequence[str]) -> None:
    """Run Python with these arguments in every process. Raises UserError with the reason and code of a failure."""
    folder = Path(tempfile.mkdtemp(prefix="lpobench-"))
    try:
        with _quiet(), _signals(folder), _environment(plan):
            _elastic(plan, arguments, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _elastic(plan: Plan, arguments: Sequence[str], folder: Path) -> None:
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    several = {"rank": plan.node, "timeout": 900} if plan.nodes > 1 else {}
    config = LaunchConfig(
        min_nodes=plan.nodes,
        max_nodes=plan.nodes,
        nproc_per_node=plan.local,
        run_id="lpobench",
        rdzv_backend="static" if several else "c10d",
        rdzv_endpoint=f"{plan.address}:{plan.port}",
        rdzv_configs=several,
        max_restarts=0,
        monitor_interval=0.1,
        logs_specs=DefaultLogsSpecs(log_dir=str(folder)),
        signals_to_handle=FORWARDED,
    )
    try:
        elastic_launch(config, sys.executable)(*arguments)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        raise _reason(folder) or _death(rank, failure.exitcode) from None
    except SignalException as error:
        raise _reason(folder) or _error(f"stopped by {error.sigval.name}", 128 + error.sigval) from None


def _reason(folder: Path) -> UserError | None:
    """What the processes say they failed of: the first one, but for those that only lost another."""
    verdicts = [json.loads(path.read_text()) for path in folder.rglob("error.json")]
    verdicts = [verdict for verdict in verdicts if "line" in verdict]
    if not verdicts:
        return None
    first = min(verdicts, key=lambda verdict: (verdict["lost"], verdict["time"]))
    return _error(first["line"], first["code"])


def _death(rank: int, exit_code: int) -> UserError:
    """Of a process that could not say anything."""
    return _error(f"process {rank} {environment.death(exit_code)}", 4 if exit_code < 0 else exit_code)


def _error(message: str, code: int) -> UserError:
    error = UserError(message)
    error.exit_code = code
    return error


def _node(env: Mapping[str, str]) -> int | None:
    """This machine's number."""
    value = env.get("NODE_RANK") or env.get("SLURM_NODEID") or ""
    return int(value) if value.isdigit() else None


def _first_host(hosts: str) -> str:
    """Of a SLURM node list: `gpu[07-09,12],login1` -> `gpu07`."""
    match = re.match(r"([^,\[]*)(?:\[(\w+))?", hosts)
    return "".join(filter(None, match.groups()))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torchrun's own account of a failure."""
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


@contextmanager
def _signals(folder: Path) -> Iterator[None]:
    """Ctrl-C is passed on like the other signals, a second one ends everything; handlers are put back."""
    from torch.distributed.elastic.multiprocessing import SignalException

    pressed = 0

    def interrupt(number: int, frame: object) -> None:
        nonlocal pressed
        pressed += 1
        if pressed > 1:
            shutil.rmtree(folder, ignore_errors=True)
            os._exit(130)  # its processes die with it
        raise SignalException("interrupted", signal.SIGINT)

    numbers = [signal.SIGINT, *(getattr(signal, name) for name in FORWARDED.split(","))]
    before = {number: signal.getsignal(number) for number in numbers}
    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _environment(plan: Plan) -> Iterator[None]:
    """What the processes inherit: who started them, and a fair share of the CPUs."""
    threads = str(max(1, (os.cpu_count() or 1) // plan.local))
    before = dict(os.environ)
    os.environ[environment.LAUNCHED] = str(os.getpid())
    os.environ["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = str(SAVING)
    os.environ.setdefault("OMP_NUM_THREADS", threads)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
