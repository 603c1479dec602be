"""Kills scoring and encoding at random moments and resumes them: `python tests/data/kill_curation.py --kills 20`.

Then kills them before each renaming of a file. Fails unless every resumed result is, byte for byte, that of a run
nobody disturbed.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

from made_pairs import Brightness, PoolingVae, files
from make_pickapic import write

from lpobench.data.pairs.encode import plan_encoding
from lpobench.data.pairs.plan import pair_table
from lpobench.data.pairs.score import plan_scoring
from lpobench.data.pairs.source import open_pairs

sys.path.append(str(Path(__file__).parent.parent))
from processes import die_with

Work = Callable[[str, Path], object]


def score(source: str, out: Path) -> None:
    pairs = open_pairs(source)
    scorers = {"first": Brightness(), "second": Brightness()}
    settings = {name: {} for name in scorers}
    plan_scoring(pairs, pair_table(pairs), out, 16, scorers=scorers, settings=settings, batch_size=4).run()


def encode(source: str, out: Path) -> None:
    pairs = open_pairs(source)
    table = pair_table(pairs)
    labelled = table[table["has_label"]].reset_index(drop=True)
    plan_encoding(pairs, labelled, PoolingVae(), out, 16, batch_size=4).run((0, 1))


WORKS: dict[str, Work] = {"score": score, "encode": encode}


def in_child(
    work: Work, source: str, out: Path, *, seconds: float | None = None, rename: int | None = None
) -> bool:
    """Do the work in a child, killed after some seconds, or just before a file gets its name; whether that met it
    at work. Nothing else may be running: a fork copies one thread."""
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        die_with(parent)
        code = 1
        try:
            if rename is not None:
                os.replace = killed_at(rename)
            work(source, out)
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


def check(name: str, kills: int, folder: Path, seed: int) -> int:
    """How many of the kills at random moments met the work undone."""
    source, work, rng = str(folder / "pairs"), WORKS[name], random.Random(seed)
    times = []
    for out in (folder / name / "straight", folder / name / "again"):
        started = time.monotonic()
        in_child(work, source, out)
        times.append(time.monotonic() - started)
    wanted = files(folder / name / "straight")
    at_work, renames = 0, 0
    for kill in range(kills):
        out = folder / name / f"killed-{kill}"
        at_work += in_child(work, source, out, seconds=rng.uniform(0, min(times)))
        in_child(work, source, out)
        compare(out, wanted)
    for renames in count():
        out = folder / name / f"rename-{renames}"
        if not in_child(work, source, out, rename=renames):
            break
        in_child(work, source, out)
        compare(out, wanted)
    print(f"{name}: {len(wanted)} files, equal after kills at {kills} moments, {at_work} of them at work,")
    print(f"{name}: and before each of its {renames} renames")
    return at_work


def compare(out: Path, wanted: dict[str, bytes]) -> None:
    """Leave with what differs, if anything does."""
    found = files(out)
    if other := sorted(name for name in {**found, **wanted} if found.get(name) != wanted.get(name)):
        raise SystemExit(f"{out}: {', '.join(other)} differ")
    if left := list(out.rglob(".*.tmp")):
        raise SystemExit(f"{left[0]} is left over")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20, help="of each kind of work")
    parser.add_argument("--rows", type=int, default=150, help="training pairs")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(
            folder / "pairs",
            args.rows,
            held_out=5,
            files=2,
            group=20,
            damaged={"broken jpeg": 5, "no image": 2},
        )
        at_work = [check(work, args.kills, folder, args.seed) for work in WORKS]
    if not all(at_work):
        sys.exit("no kill met the work; give it more --rows")


if __name__ == "__main__":
    main()
