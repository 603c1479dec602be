"""Training an LRM (LPO sec. 4.1, eq. 10-11): Bradley-Terry with ties on noised pairs, at every timestep.

    loss = sum_j w_j (label_0 CE(-> 0) + label_1 CE(-> 1) + [tie] ln 0.5)
    w_j  = 1 / num_example_per_prompt, normalised over the batch
    t    uniform on the 20 sampling timesteps, shared by a pair's two images; their noise is independent

As released, except: the warm-up is linear, not logarithmic; float32 or bfloat16 autocast instead of ZeRO-2;
the weights kept are averaged, and the best by validation accuracy over all timesteps, not the last, because a
small data set overfits. Images are never mirrored: "left of" is part of a prompt.

    python -m rewards.train --backbone tiny-sd15 --pairs FOLDER [FOLDER ...] --out FOLDER
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pandas as pd
import torch

from lpobench.data import mpcf
from lpobench.data.pairs import LatentPairs
from lpobench.plugin import UserError
from rewards.fit import RewardTraining
from rewards.lrm import LRM, PUBLISHED_VFE_SCALE, LRMConfig, LRMTraining
from rewards.lrm_model import LatentRewardModel, UNetBackbone
from rewards.pairwise import accuracy_by_timestep

log = logging.getLogger(__name__)


def train_reward(
    settings: LRM,
    backbone: UNetBackbone,
    folder: Path,
    *,
    seed: int,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> dict[str, pd.DataFrame]:
    """Train an LRM from the backbone's weights, writing `folder` whenever validation improves and at the end.

    Returns the accuracy-by-timestep table of each held-out split of the first source of pairs.
    """
    training = settings.training
    sources = [LatentPairs.read(path, backbone.latent_space) for path in settings.pair_folders()]
    held_out = {name: sources[0].split(name) for name in ("validation_unique", "test_unique")}
    pairs = training_pairs(sources, training.mpcf)
    if not len(pairs) or not len(held_out["validation_unique"]):
        raise UserError(
            f"{', '.join(settings.pairs)}: needs train pairs that pass MPCF and validation_unique pairs"
        )

    vfe_scale = PUBLISHED_VFE_SCALE if settings.vfe_scale is None else settings.vfe_scale
    model = new_model(backbone, vfe_scale, seed).to(device)
    config = LRMConfig(
        backbone=backbone.name,
        latent_space=backbone.latent_space,
        vfe_scale=vfe_scale,
        feature_dim=model.visual_projection.in_features,
        projection_dim=model.visual_projection.out_features,
        training={**training.model_dump(), "pairs": list(settings.pairs), "seed": seed},
    )
    save = partial(model.save, folder, dtype=torch.float16 if training.half else torch.float32)
    run = RewardTraining(
        model, backbone.schedule, pairs, held_out["validation_unique"], training, seed, dtype
    )
    best = run.fit(on_best=lambda: save(config))

    model.load_state_dict(best.weights)
    if training.half:
        model.cast_blocks(torch.float16).cast_blocks(torch.float32)
    tables = {
        name: accuracy_by_timestep(model, backbone.schedule, part)
        for name, part in held_out.items()
        if len(part)
    }
    accuracy = {name: json.loads(table.to_json(orient="records")) for name, table in tables.items()}
    config.training["best_step"] = best.step
    save(config.model_copy(update={"accuracy": accuracy}))
    return tables


def new_model(backbone: UNetBackbone, vfe_scale: float, seed: int) -> LatentRewardModel:
    """Untrained: the backbone's weights, and projections drawn from the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LatentRewardModel.from_backbone(backbone, vfe_scale)


def training_pairs(sources: Sequence[LatentPairs], strategy: mpcf.Strategy) -> LatentPairs:
    """The sources' train splits, each filtered by MPCF in its own units, as one set."""
    limits = mpcf.STRATEGIES[strategy]
    kept = []
    for source in sources:
        part = source.split("train")
        kept.append(part.take(mpcf.keep(part.table, limits and limits.in_units(source.meta.gap_units))))
        log.info("MPCF %s keeps %d of %d training pairs", strategy, len(kept[-1]), len(part))
    return LatentPairs.cat([part for part in kept if len(part)] or kept[:1])


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

    from lpobench import registry

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
