"""Training an LRM on its own, from the command line.

python -m rewards.train --backbone tiny-sd15 --pairs FOLDER [FOLDER ...] --out FOLDER
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from lpobench import registry
from lpobench.plugin import UserError
from rewards.lrm.config import PUBLISHED_VFE_SCALE
from rewards.lrm.settings import LRM, LRMTraining
from rewards.lrm.train import train_reward


def main(argv: Sequence[str] | None = None) -> None:
    """The command line: accuracy tables on stdout, progress on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m rewards.train", description="Train a latent reward model."
    )
    parser.add_argument(
        "--backbone", default="tiny-sd15", help="backbone to start from (default: %(default)s)"
    )
    parser.add_argument("--pairs", nargs="+", default=["shapes-pairs"], help="folders of preference pairs")
    parser.add_argument("--out", type=Path, required=True, help="folder to write the LRM to")
    parser.add_argument("--vfe-scale", help=f"guidance on the mid feature (default: {PUBLISHED_VFE_SCALE})")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    for name, knob in LRMTraining.model_fields.items():
        text = f"{knob.description} (default: {knob.default})"
        parser.add_argument(f"--{name.replace('_', '-')}", help=text)
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    try:
        given = {name: getattr(args, name) for name in LRMTraining.model_fields}
        training = LRMTraining(**{name: value for name, value in given.items() if value is not None})
        settings = LRM(pairs=tuple(args.pairs), vfe_scale=args.vfe_scale, training=training)
        device, dtype = (
            torch.device(args.device),
            {"fp32": torch.float32, "bf16": torch.bfloat16}[args.precision],
        )
        backbone = registry.get("backbones", args.backbone)().load(device, torch.float32)
        tables = train_reward(settings, backbone, args.out, seed=args.seed, device=device, dtype=dtype)
    except UserError as error:
        parser.exit(error.exit_code, f"error: {error}\n")
    for name, table in tables.items():
        means = table[["accuracy", "accuracy_true"]].mean()
        print(f"{name}: mean accuracy {means.accuracy:.3f} by label, {means.accuracy_true:.3f} by truth")
        print(table.to_string(index=False, float_format="%.3f"))


if __name__ == "__main__":
    main()
