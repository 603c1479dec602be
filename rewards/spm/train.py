"""Training an SPM (SPO sec. 3.2): Bradley-Terry with ties on decoded x0 estimates, at every timestep.

    loss   = sum_j w_j (label_0 CE(-> 0) + label_1 CE(-> 1) + [tie] ln 0.5)     as LRM's, see rewards/fitting.py
    t      uniform on 0..999, shared by a pair's two images, and so is their noise
    image  decoded x0 estimate of one denoiser call with guidance 5

As released, except: estimates may come from a bank (estimates.py); the warm-up is linear, not logarithmic; float32
or bfloat16 autocast instead of ZeRO-2; the weights kept are averaged, and the best by validation accuracy over the
20 sampling timesteps, not the last; the logit scale may start lower than the CLIP's. The SDXL
release relabels the pairs by PickScore first; pass pairs with such labels for that.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import pandas as pd
import torch

from lpobench.data.pairs import LatentPairs
from lpobench.launch import ranks
from lpobench.plugin import UserError
from lpobench.sampling import Policy, RectifiedFlow
from lpobench.types import Backbone
from rewards.accuracy import as_rows, tables_of
from rewards.fitting import FreshLook, Look, RewardTraining
from rewards.labelled import open_splits
from rewards.lrm.noise import is_stable_diffusion
from rewards.pair_scorer import PairScorer, grid
from rewards.spm import folder as folders
from rewards.spm.config import SPMConfig
from rewards.spm.estimates import Bank, Guided, pair_scores
from rewards.spm.settings import SPM, SPMTraining

NUM_TRAIN = 1000
"""Timesteps it is trained on: 0, 1, ..., 999."""


def train_reward(
    settings: SPM,
    backbone: Backbone,
    folder: Path,
    *,
    seed: int,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> dict[str, pd.DataFrame]:
    """Train an SPM from a CLIP's weights, writing `folder` whenever validation improves and at the end.

    Returns the accuracy-by-timestep table of each held-out split of the first source of pairs.
    """
    training = settings.training
    config = describe(settings, backbone, seed)
    pairs, held_out = open_splits(settings.pairs, backbone, training.mpcf)
    model = folders.from_clip(settings.clip_places(), seed).to(device)
    if training.scale is not None:
        model.clip.logit_scale.data.fill_(math.log(training.scale))
    policy = Policy(backbone, Guided(training.guidance_scale))
    scorer = PairScorer(model, partial(pair_scores, model, policy), num_noises=1)
    look, timesteps = make_look(scorer, policy, pairs, training, seed, dtype), grid(backbone.schedule)
    run = RewardTraining(scorer, look, pairs, held_out["validation_unique"], timesteps, training, seed)

    dtype_stored = torch.float16 if training.half else torch.float32
    write = lambda config: ranks.from_main(partial(folders.save, model, folder, config, dtype_stored))
    best = run.fit(on_best=lambda: write(config))
    model.load_state_dict(best.weights)
    model.load_state_dict(folders.rounded(model, dtype_stored))
    tables = tables_of(scorer, timesteps, held_out)
    config.training["best_step"] = best.step
    write(config.model_copy(update={"accuracy": as_rows(tables)}))
    return tables


def describe(settings: SPM, backbone: Backbone, seed: int) -> SPMConfig:
    """What the folder will say of itself. Raises UserError for a noise schedule it could not name."""
    is_flow = isinstance(backbone.schedule, RectifiedFlow)
    if not is_flow and not is_stable_diffusion(backbone.schedule):
        raise UserError(
            f"an SPM is trained on Stable Diffusion's noise schedule or on a flow, backbone {backbone.name} has "
            "another"
        )
    start = {"clip": settings.clip, "pairs": list(settings.pairs), "seed": seed}
    return SPMConfig(
        backbone=backbone.name, is_flow=is_flow, training={**settings.training.model_dump(), **start}
    )


def make_look(
    scorer: PairScorer,
    policy: Policy,
    pairs: LatentPairs,
    training: SPMTraining,
    seed: int,
    dtype: torch.dtype,
) -> Look:
    """How the loop sees training pairs: through a bank, or anew each time."""
    timesteps = torch.arange(NUM_TRAIN, dtype=torch.float32)
    if not training.bank:
        return FreshLook(scorer, timesteps, training.posterior, dtype)
    return Bank.make(scorer.model, policy, pairs, timesteps, draws=training.bank, seed=seed, dtype=dtype)
