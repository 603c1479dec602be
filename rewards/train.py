"""Training a reward model on its own, from the command line.

python -m rewards.train [--reward lrm|spm] --backbone tiny-sd15 --pairs FOLDER [FOLDER ...] --out FOLDER
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
from pydantic import ValidationError

from lpobench import registry
from lpobench.plugin import UserError
from rewards.lrm import LRM, LRMTraining
from rewards.spm import SPM, SPMTraining

REWARDS = {"lrm": (LRM, LRMTraining), "spm": (SPM, SPMTraining)}
OWN_OPTIONS = {"lrm": ("vfe_scale",), "spm": ("clip", "processor")}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def main(argv: Sequence[str] | None = None) -> None:
    """The command line: accuracy tables on stdout, progress on stderr."""
    which = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    which.add_argument(
        "--reward", choices=REWARDS, default="lrm", help="what to train (default: %(default)s)"
    )
    name = which.parse_known_args(argv)[0].reward
    parser = _parser(name, which)
    args = parser.parse_args(argv)

    cls, knobs = REWARDS[name]
    given = {key: value for key, value in vars(args).items() if value is not None}
    try:
        training = knobs(**{key: value for key, value in given.items() if key in knobs.model_fields})
        own = {key: given[key] for key in OWN_OPTIONS[name] if key in given}
        settings = cls(pairs=tuple(args.pairs), training=training, **own)
        device = torch.device(args.device)
        backbone = registry.get("backbones", args.backbone)().load(device, torch.float32)
        trained = settings.train(
            backbone, args.out, seed=args.seed, device=device, dtype=DTYPES[args.precision]
        )
    except ValidationError as error:
        problem = error.errors()[0]
        where = "".join(f"{part}: " for part in problem["loc"])
        parser.exit(2, f"error: {where}{problem['msg']}\n")
    except UserError as error:
        parser.exit(error.exit_code, f"error: {error}\n")
    for split, rows in trained.measured().items():
        table = pd.DataFrame(rows).astype(float)
        means = table[["accuracy", "accuracy_true"]].mean()
        print(f"{split}: mean accuracy {means.accuracy:.3f} by label, {means.accuracy_true:.3f} by truth")
        print(table.to_string(index=False, float_format="%.3f"))


def _parser(name: str, which: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Options of one reward: what all share, its own settings, and those of its training."""
    cls, knobs = REWARDS[name]
    parser = argparse.ArgumentParser(
        prog="python -m rewards.train", description="Train a reward model.", parents=[which]
    )
    parser.add_argument(
        "--backbone", default="tiny-sd15", help="whose world it is for (default: %(default)s)"
    )
    parser.add_argument("--pairs", nargs="+", default=["shapes-pairs"], help="preference pairs")
    parser.add_argument("--out", type=Path, required=True, help="folder to write it to")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=DTYPES, default="fp32")
    fields = {key: cls.model_fields[key] for key in OWN_OPTIONS[name]} | knobs.model_fields
    for key, field in fields.items():
        text = f"{field.description} (default: {field.default})".replace("%", "%%")
        parser.add_argument(f"--{key.replace('_', '-')}", help=text)
    return parser


if __name__ == "__main__":
    main()
