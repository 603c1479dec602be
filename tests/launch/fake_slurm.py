"""As much of Slurm's commands as submitit uses, on this machine: `sbatch` runs the file at once.

Written as executables into a folder for PATH; jobs are kept in FAKE_SLURM, by number.
"""

import os
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

COMMANDS = ("sbatch", "srun", "sacct", "scancel")


def install(folder: Path) -> None:
    folder.mkdir()
    for command in COMMANDS:
        path = folder / command
        path.write_text(f'#!/bin/sh\nexec {sys.executable} -S {__file__} {command} "$@"\n')
        path.chmod(0o755)


def sbatch(file: str) -> None:
    """Jobs are sessions of their own, as they are on another machine."""
    jobs = Path(os.environ["FAKE_SLURM"])
    number = len(list(jobs.glob("*.pid"))) + 1
    place = {"JOB_ID": number, "NTASKS": 1, "JOB_NUM_NODES": 1, "NODEID": 0, "PROCID": 0, "LOCALID": 0}
    with (jobs / f"{number}.out").open("w") as out:
        process = subprocess.Popen(
            ["bash", file],
            env={**os.environ, **{f"SLURM_{name}": str(value) for name, value in place.items()}},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    (jobs / f"{number}.pid").write_text(str(process.pid))
    print(f"Submitted batch job {number}")


def srun(*words: str) -> None:
    """Options first: --unbuffered, and --output and --error with a value."""
    rest = list(words)
    while rest[0].startswith("--"):
        del rest[: 1 if rest[0] == "--unbuffered" else 2]
    os.execv(rest[0], rest)


def sacct(*words: str) -> None:
    print("JobID|State|NodeList")
    for flag, number in pairwise(words):
        if flag == "-j":
            print(f"{number}|{'RUNNING' if members(number) else 'COMPLETED'}|here")


def scancel(*words: str) -> None:
    """With --signal; no job is ever pending here."""
    if "--signal=TERM" in words:
        for pid in members(words[-1]):
            os.kill(pid, signal.SIGTERM)


def members(number: str) -> list[int]:
    """The Python processes of a job's session."""
    leader = (Path(os.environ["FAKE_SLURM"]) / f"{number}.pid").read_text()
    found = subprocess.run(["ps", "-o", "pid=,stat=,comm=", "-s", leader], capture_output=True, text=True)
    rows = [line.split() for line in found.stdout.splitlines()]
    return [int(pid) for pid, state, name in rows if name.startswith("python") and "Z" not in state]


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
