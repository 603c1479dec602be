"""Pairs as DiNa-LRM's training sees them (sec. 4): one noise and one level for both images, one forward.

Levels are uniform in sigma, each the nearest of the backbone's own 1000 shifted ones (released code).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lpobench.data.pairs import PairBatch
from lpobench.sampling.schedule import RectifiedFlow
from rewards.dina.losses import Loss, comparison_std
from rewards.dina.model import DiNaModel
from rewards.dina.noise import NUM_TRAIN, nearest, shifted_grid
from rewards.dina.text import Prompts


def uniform_timesteps(schedule: RectifiedFlow) -> Float[Tensor, " 1000"]:
    """1000 timesteps; one of them at random is a sigma uniform in (0, 1), on the shifted grid."""
    uniform = (torch.arange(NUM_TRAIN) + 0.5) / NUM_TRAIN
    return 1000 * nearest(uniform, shifted_grid(schedule.shift))


@dataclass(frozen=True)
class PairScores:
    """Scores both images of each pair, in units of what the loss compares them in, which changes no order."""

    model: DiNaModel
    prompts: Prompts
    loss: Loss
    at_once: int
    """Pairs per forward; more are scored in parts."""

    def __call__(
        self, batch: PairBatch, t: Float[Tensor, " n"], noise: Float[Tensor, "1 n c h w"]
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        parts = [
            self._score(batch.take(rows), t[rows], noise[0, rows])
            for rows in torch.arange(len(t)).split(self.at_once)
        ]
        first, second = (torch.cat(scores) for scores in zip(*parts, strict=True))
        return first, second

    def _score(
        self, batch: PairBatch, t: Float[Tensor, " n"], noise: Float[Tensor, "n c h w"]
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        device, sigma = self.model.device, (t / 1000).view(-1, 1, 1, 1)
        pair = torch.stack([batch.latents_0, batch.latents_1])
        latents = ((1 - sigma) * pair + sigma * noise).flatten(0, 1).to(device)
        both, text = sigma.flatten().to(device), self.prompts(batch.prompts)
        context, pooled = text.prompt_embeds.repeat(2, 1, 1), text.pooled.repeat(2, 1)
        scores = self.model(latents[None], both.repeat(2)[None], context, pooled)
        first, second = scores.view(2, -1) / comparison_std(self.loss, both)
        return first, second
