"""Training an LRM (LPO sec. 4.1, eq. 10-11): Bradley-Terry with ties on noised pairs, at every timestep.

    loss = sum_j w_j (label_0 CE(-> 0) + label_1 CE(-> 1) + [tie] ln 0.5)
    w_j  = 1 / num_example_per_prompt, normalised over the batch
    t    uniform on the 20 sampling timesteps, shared by a pair's two images; their noise is independent

As released, except: the warm-up is linear, not logarithmic; float32 or bfloat16 autocast instead of ZeRO-2;
the weights kept are averaged, and the best by validation accuracy over all timesteps, not the last, because a
small data set overfits. Images are never mirrored: "left of" is part of a prompt.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pandas as pd
import torch

from lpobench.launch import ranks
from lpobench.types import Backbone
from rewards.accuracy import as_rows, tables_of
from rewards.labelled import open_splits
from rewards.lrm import folder as folders
from rewards.lrm.config import PUBLISHED_VFE_SCALE, LRMConfig
from rewards.lrm.fit import training_run
from rewards.lrm.model import LatentRewardModel, check_denoiser
from rewards.lrm.noise import check_trainable
from rewards.lrm.settings import LRM


def train_reward(
    settings: LRM,
    backbone: Backbone,
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
    check_denoiser(backbone)
    pairs, held_out = open_splits(settings.pairs, backbone, training.mpcf)
    vfe_scale = PUBLISHED_VFE_SCALE if settings.vfe_scale is None else settings.vfe_scale
    model = new_model(backbone, vfe_scale, seed, training.layer).to(device)
    config = describe(settings, backbone, model, seed)
    check_trainable(backbone.schedule, backbone.name, config.is_mmdit)
    dtype_stored = torch.float16 if training.half else torch.float32
    write = lambda config: ranks.from_main(partial(folders.save, model, folder, config, dtype_stored))
    run = training_run(model, backbone.schedule, pairs, held_out["validation_unique"], training, seed, dtype)
    best = run.fit(on_best=lambda: write(config))

    model.load_state_dict(best.weights, strict=False)  # what is frozen is not among them
    if training.half:
        model.cast_blocks(torch.float16).cast_blocks(torch.float32)
    tables = tables_of(run.scorer, run.timesteps, held_out)
    config.training["best_step"] = best.step
    write(config.model_copy(update={"accuracy": as_rows(tables)}))
    return tables


def describe(settings: LRM, backbone: Backbone, model: LatentRewardModel, seed: int) -> LRMConfig:
    """What the folder will say of itself."""
    t5 = {"t5_tokens": model.text.t5_tokens, "t5_dim": model.text.t5_dim} if model.is_mmdit else {}
    return LRMConfig(
        backbone=backbone.name,
        latent_space=backbone.latent_space,
        vfe_scale=model.vfe_scale,
        feature_dim=model.visual_projection.in_features,
        projection_dim=model.visual_projection.out_features,
        parts=tuple(folders.parts(model)),
        training={**settings.training.model_dump(), "pairs": list(settings.pairs), "seed": seed},
        **t5,
    )


def new_model(backbone: Backbone, vfe_scale: float, seed: int, layer: int | None = None) -> LatentRewardModel:
    """Untrained: the backbone's weights, and projections drawn from the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LatentRewardModel.from_backbone(backbone, vfe_scale, layer)
