"""Preference data at size: speed of encoding, memory by the number of rows, waiting for data while training.

    python tests/benchmarks/curation.py all --work FOLDER --rows 2000 20000

makes generated Pick-a-Pic sets in FOLDER (once) and prints one JSON line per measurement, each taken in a process of
its own; the last line compares them. `encode`, `train` and `train --live` (no cache: images are encoded as they are
needed) measure one set. Needs an otherwise idle machine.
"""

import argparse
import json
import logging
import resource
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "data")]
HELD_OUT = 100


def make(work: Path, rows: int) -> Path:
    """The generated set of so many training rows."""
    from make_pickapic import write

    folder = work / f"pickapic-{rows}"
    if not (folder / "made").exists():
        write(folder, rows, held_out=HELD_OUT, files=4, damaged=dict.fromkeys(("broken jpeg", "no image"), 3))
        (folder / "made").touch()
    return folder


def backbone():
    import torch

    from backbones.tiny import TinySD15

    return TinySD15().load(torch.device("cpu"), torch.float32)


def encode(work: Path, rows: int) -> dict:
    """One encoding from nothing with the tiny VAE."""
    from lpobench.data.pairs.encode import plan_encoding
    from lpobench.data.pairs.plan import pair_table
    from lpobench.data.pairs.source import open_pairs

    source = open_pairs(str(make(work, rows)))
    table = pair_table(source)
    table = table[table["has_label"]].reset_index(drop=True)
    done = plan_encoding(source, table, backbone(), work / f"cache-{rows}").run((0, 1))
    speed = done.images / done.seconds if done.images else None
    return {"images": done.images, "images_per_second": speed, "outside_vae": done.outside}


def train(work: Path, rows: int, steps: int, *, live: bool) -> dict:
    """LRM steps on the training split; the share of their time spent on getting batches, and their losses."""
    import torch

    from lpobench.data.pairs import LatentPairs
    from lpobench.data.pairs.training import open_latents
    from rewards import fitting
    from rewards.lrm import LRMTraining
    from rewards.lrm.fit import training_run
    from rewards.lrm.train import new_model

    model, waited, losses = backbone(), [], []
    pairs = open_latents(str(make(work, rows) if live else work / f"cache-{rows}"), model)
    batch, gradients = LatentPairs.batch, fitting.RewardTraining._gradients

    def timed(self, *args):
        started = time.monotonic()
        try:
            return batch(self, *args)
        finally:
            waited.append(time.monotonic() - started)

    def watched(self, *args):
        losses.append(gradients(self, *args))
        return losses[-1]

    LatentPairs.batch, fitting.RewardTraining._gradients = timed, watched
    settings = LRMTraining(steps=steps, warmup=5, validate_every=steps, validation_pairs=20)
    run = training_run(
        new_model(model, 7.5, 0),
        model.schedule,
        pairs.split("train"),
        pairs.split("validation_unique"),
        settings,
        0,
        torch.float32,
    )
    started = time.monotonic()
    run.fit(on_best=lambda: None)
    seconds = time.monotonic() - started
    return {"steps": steps, "seconds": seconds, "data_wait": sum(waited) / seconds, "losses": losses}


def measured(work: Path, words: list[str]) -> dict:
    """One measurement in a process of its own."""
    command = [sys.executable, __file__, *words, "--work", str(work)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    found = json.loads(done.stdout)
    print(json.dumps({**found, "losses": found.get("losses", [])[-1:]}), flush=True)
    return found


def everything(work: Path, rows: list[int], steps: int) -> dict:
    peaks: dict[str, list[float]] = {"encode": [], "train": []}
    for num in rows:
        make(work, num)
        peaks["encode"].append(measured(work, ["encode", "--rows", str(num)])["peak_mb"])
        cached = measured(work, ["train", "--rows", str(num), "--steps", str(steps)])
        peaks["train"].append(cached["peak_mb"])
    live = measured(work, ["train", "--live", "--rows", str(rows[-1]), "--steps", str(steps)])
    apart = max(abs(a - b) for a, b in zip(cached["losses"], live["losses"], strict=True))
    growth = {name: max(values) / min(values) - 1 for name, values in peaks.items()}
    return {"what": "all", "rows": rows, "memory_growth": growth, "largest_loss_difference": apart}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["all", "encode", "train"])
    parser.add_argument("--work", type=Path, required=True, help="folder for sets and caches")
    parser.add_argument("--rows", type=int, nargs="+", default=[2000, 20000], help="training rows")
    parser.add_argument("--steps", type=int, default=50, help="LRM steps")
    parser.add_argument("--live", action="store_true", help="train without the cache")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if args.what == "all":
        return print(json.dumps(everything(args.work, args.rows, args.steps)))
    rows = args.rows[0]
    found = (
        encode(args.work, rows)
        if args.what == "encode"
        else train(args.work, rows, args.steps, live=args.live)
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else 2**20)
    return print(
        json.dumps({"what": args.what, "rows": rows, "live": args.live, "peak_mb": round(peak), **found})
    )


if __name__ == "__main__":
    main()
