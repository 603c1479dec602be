"""Kills an evaluation at random moments and resumes it: `python tests/scoring/kill_evaluation.py --kills 20`.

Then kills it before each renaming of a file. Fails unless every resumed evaluation has, byte for byte, the images, the
scores and the table of one that nobody disturbed.
"""

import argparse
import os
import sys
import tempfile
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent))
import peft  # noqa: F401  imported late by a policy: here once, not in every child
import torch._dynamo
from kills import survive
from made import Meter, register_toys

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
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    settings = ["eval.num_steps=3", "eval.guidance_scale=1", "eval.batch_size=4", "device=cpu"]
    settings += ["eval.bootstrap_samples=100"]
    made = plan("toy", None, ["meter", "slow"], None, None, settings, {"prompts": str(folder / "p.csv")})
    evaluate(made, out, batch_size=3)


def files(out: Path) -> dict[str, bytes]:
    found = sorted(path for path in out.rglob("*") if path.is_file() and path.name not in CHANGING)
    return {str(path.relative_to(out)): path.read_bytes() for path in found}


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
    with world() as folder:
        done = survive(partial(work, folder), files, folder, args.kills, args.renames, args.seed)
        print(
            f"{done.files} files, equal after kills at {args.kills} moments, {done.at_work} of them at work,"
        )
        print(f"and before {done.renames} of its renames")


if __name__ == "__main__":
    main()
