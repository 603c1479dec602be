"""Training a DiNa-LRM (arXiv:2602.11146, sec. 4): fidelity to noise-calibrated Thurstone comparisons.

    s^2(sigma) = 2 sigma^2 + 0.05     p = Phi((r_0 - r_1) / sqrt(2 s^2))     loss = 1 - sqrt(p) of the winner

Differs from the released code: what is trained is float32 (in its bfloat16, steps of the published learning rate
leave a third of the weights and every norm as they were); the warm-up and the averaged weights of its config
happen, followed by a decay; both images go through in one forward; random numbers are drawn once for all
processes, not alike in each; prompts are encoded once; ties and weights of pairs count; the weights kept are the
most accurate on validation pairs, not the last.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from lpobench.launch import ranks
from rewards.accuracy import accuracy_by_timestep
from rewards.dina import folder as folders
from rewards.dina.config import DiNaConfig, HeadConfig
from rewards.dina.losses import pair_loss
from rewards.dina.model import DiNaModel
from rewards.dina.pairwise import PairScores, uniform_timesteps
from rewards.dina.settings import DiNa
from rewards.dina.text import Prompts, TransformerBackbone
from rewards.dina.trunk import Depth
from rewards.fitting import FreshLook, RewardTraining
from rewards.labelled import open_splits
from rewards.pair_scorer import PairScorer, grid


def train_reward(
    settings: DiNa,
    backbone: TransformerBackbone,
    folder: Path,
    *,
    seed: int,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> dict[str, pd.DataFrame]:
    """Train on the backbone's weights, writing `folder` whenever validation improves and at the end.

    Returns the accuracy-by-timestep table of each held-out split of the first source of pairs.
    """
    training = settings.training
    stored = torch.float16 if training.half else torch.float32
    config = describe(settings, backbone, seed)
    pairs, held_out = open_splits(settings.pairs, backbone, training.mpcf)
    model = new_model(config, backbone, seed).to(device)
    model.trunk.checkpointing = training.checkpointing
    write = lambda config: ranks.from_main(partial(folders.save, model, folder, config, stored))
    scores = PairScores(model, Prompts(backbone), training.loss, training.batch_size)
    scorer = PairScorer(model, scores, num_noises=1)
    look = FreshLook(scorer, uniform_timesteps(backbone.schedule), training.posterior, dtype)
    run = RewardTraining(
        scorer,
        look,
        pairs,
        held_out["validation_unique"],
        grid(backbone.schedule),
        training,
        seed,
        loss=partial(pair_loss, training.loss),
    )
    best = run.fit(on_best=lambda: write(config))

    keep(model, best.weights, stored)
    tables = {
        name: accuracy_by_timestep(scorer, grid(backbone.schedule), part)
        for name, part in held_out.items()
        if len(part)
    }
    accuracy = {name: json.loads(table.to_json(orient="records")) for name, table in tables.items()}
    config.training["best_step"] = best.step
    write(config.model_copy(update={"accuracy": accuracy}))
    return tables


def describe(settings: DiNa, backbone: TransformerBackbone, seed: int) -> DiNaConfig:
    """What the folder will say of itself. Raises UserError where the backbone is not one to train on."""
    folders.check_transformer(backbone)
    training = settings.training
    num_blocks = len(backbone.denoiser.transformer_blocks)
    depth = Depth.of(num_blocks, training.layers, training.visual_taps, training.text_taps)
    return DiNaConfig(
        backbone=backbone.name,
        latent_space=backbone.latent_space,
        layers=depth.layers,
        visual_taps=depth.visual,
        text_taps=depth.text,
        rank=training.rank,
        alpha=2 * training.rank if training.alpha is None else training.alpha,
        head=HeadConfig(width=training.width, num_queries=training.num_queries, num_heads=training.num_heads),
        logistic=training.logistic,
        t5_tokens=folders.t5_tokens(backbone),
        training={**training.model_dump(), "pairs": list(settings.pairs), "seed": seed},
    )


def new_model(
    config: DiNaConfig, backbone: TransformerBackbone, seed: int, *, shared: bool | None = None
) -> DiNaModel:
    """Untrained, drawn from the seed; on the backbone's own weights, unless told otherwise or float16 would lose the
    gradients.
    """
    if shared is None:
        shared = next(backbone.denoiser.parameters()).dtype != torch.float16
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return folders.build(config, backbone, shared=shared)


@torch.no_grad()
def keep(model: DiNaModel, weights: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    """Put the best weights into the model, rounded as they are stored."""
    for name, parameter in model.trainable().items():
        parameter.copy_(weights[name].to(dtype))
