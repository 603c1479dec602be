"""Kills an evaluation at random moments and resumes it: `python tests/scoring/kill_evaluation.py --kills 20`.

Then kills it before each renaming of a file. Fails unless every resumed evaluation has, byte for byte, the images, the
scores and the table of one that nobody disturbed.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from itertools import count
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent))
import peft  # noqa: F401  imported late by a policy: here once, not in every child
import torch._dynamo
from made import Meter, register_toys
from processes import die_with

from lpobench import registry
from lpobench.evaluation.plan import plan
from lpobench.evaluation.run import evaluate

PROMPTS = 24
CHANGING = ("evaluation.json", ".lock")
"""What says when it was written, and by whom."""


class Patch:
    """What register_toys needs of pytest's monkeypatch."""

    setattr = staticmethod(setattr)


class Slow(Meter):
    """Meter, who takes his time."""

    def score(self, images, prompts):
        time.sleep(0.002 * len(prompts))
        return super().score(images, prompts)


def work(folder: Path, out: Path) -> None:
    """24 images in batches of four by two scorers."""
    settings = ["eval.num_steps=3", "eval.guidance_scale=1", "eval.batch_size=4", "device=cpu"]
    settings += ["eval.bootstrap_samples=100"]
    made = plan("toy", None, ["meter", "slow"], None, None, settings, {"prompts": str(folder / "p.csv")})
    evaluate(made, out, batch_size=3)


def in_child(folder: Path, out: Path, *, seconds: float | None = None, rename: int | None = None) -> bool:
    """Do the work in a child, killed after some seconds, or just before a file gets its name; whether that met it
    at work. Nothing else may be running: a fork copies one thread."""
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        die_with(parent)
        code = 1
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            if rename is not None:
                os.replace = killed_at(rename)
            work(folder, out)
            code = 0
        finally:
            os._exit(code)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    if os.WEXITSTATUS(status):
        raise SystemExit(f"the work in {out} failed")
    return False


def killed_at(rename: int) -> Callable[..., None]:
    """`os.replace` that kills its process instead of renaming, the given number of times after the first."""
    counter, real = count(), os.replace

    def replace(*paths) -> None:
        if next(counter) == rename:
            os.kill(os.getpid(), signal.SIGKILL)
        real(*paths)

    return replace


def files(out: Path) -> dict[str, bytes]:
    found = sorted(path for path in out.rglob("*") if path.is_file() and path.name not in CHANGING)
    return {str(path.relative_to(out)): path.read_bytes() for path in found}


def compare(out: Path, wanted: dict[str, bytes]) -> None:
    """Leave with what differs, if anything does."""
    found = files(out)
    if other := sorted(name for name in {**found, **wanted} if found.get(name) != wanted.get(name)):
        raise SystemExit(f"{out}: {', '.join(other)} differ")


@contextmanager
def world():
    """A folder with prompts, and the toys registered."""
    registry_table = registry.table
    sys.modules["made"].NAMES["evaluators"]["slow"] = Slow
    register_toys(Patch)
    with tempfile.TemporaryDirectory() as name:
        rows = "".join(f"0.{i},{'ab'[i % 2]}\n" for i in range(1, PROMPTS + 1))
        (Path(name) / "p.csv").write_text("prompt,task\n" + rows)
        yield Path(name)
    registry.table = registry_table


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--renames", type=int, default=10**6, help="at most so many, evenly spread")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    rng = random.Random(args.seed)
    with world() as folder:
        times = []
        for out in (folder / "straight", folder / "again"):
            started = time.monotonic()
            in_child(folder, out)
            times.append(time.monotonic() - started)
        wanted = files(folder / "straight")
        compare(folder / "again", wanted)
        at_work = 0
        for kill in range(args.kills):
            out = folder / f"killed-{kill}"
            at_work += in_child(folder, out, seconds=rng.uniform(0, min(times)))
            in_child(folder, out)
            compare(out, wanted)
        print(f"{len(wanted)} files, equal after kills at {args.kills} moments, {at_work} of them at work,")
        total = sum(name.count("/") > 0 for name in wanted)
        step = max(1, total // args.renames)
        renames = 0
        for rename in count(0, step):
            out = folder / f"rename-{rename}"
            if not in_child(folder, out, rename=rename):
                break
            in_child(folder, out)
            compare(out, wanted)
            renames += 1
        print(f"and before {renames} of its renames")


if __name__ == "__main__":
    main()
