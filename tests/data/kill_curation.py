"""Kills scoring and encoding at random moments and resumes them: `python tests/data/kill_curation.py --kills 20`.

Then kills them before each renaming of a file. Fails unless every resumed result is, byte for byte, that of a run
nobody disturbed.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from made_pairs import Brightness, PoolingVae, files
from make_pickapic import write

from lpobench.data.pairs.encode import plan_encoding
from lpobench.data.pairs.plan import pair_table
from lpobench.data.pairs.score import plan_scoring
from lpobench.data.pairs.source import open_pairs

sys.path.append(str(Path(__file__).parent.parent))
from kills import survive


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


WORKS: dict[str, Callable[[str, Path], object]] = {"score": score, "encode": encode}


def check(name: str, kills: int, folder: Path, seed: int) -> int:
    """How many of the kills at random moments met the work undone."""
    work = partial(WORKS[name], str(folder / "pairs"))
    done = survive(work, files, folder / name, kills, sys.maxsize, seed)
    print(
        f"{name}: {done.files} files, equal after kills at {kills} moments, {done.at_work} of them at work,"
    )
    print(f"{name}: and before each of its {done.renames} renames")
    return done.at_work


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
