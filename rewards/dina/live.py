"""The live DiNa-LRM: scores latents at the noise level they have, finished ones at levels of its own.

Differs from the released inference: noise is seeded, so a score is a number, not a draw; a step's own noise is
used as it is; gradients pass to the latents. Off by default, as released: the ensemble and the logistic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from rewards.dina.model import DiNaModel
from rewards.dina.noise import draw, raise_to
from rewards.dina.text import Prompts

if TYPE_CHECKING:
    from lpobench.sampling.rollout import Noisy


@dataclass(frozen=True)
class Scoring:
    """How a score is taken and told. Fields as in the settings."""

    level: float = 0.4
    ensemble: Literal["off", "clean", "all"] = "off"
    ensemble_levels: tuple[float, ...] = (0.2, 0.5, 0.7)
    reported: bool = False
    seed: int = 0


class DiNaReward:
    """See the module. Parameters never require grad."""

    differentiable = True

    def __init__(self, model: DiNaModel, prompts: Prompts, scoring: Scoring):
        self.model = model.eval().requires_grad_(False)
        self.prompts, self.scoring = prompts, scoring
        self.latent_space = prompts.backbone.latent_space

    def score(self, noisy: Noisy) -> Float[Tensor, " n"]:
        """Raises UserError when shared weights were replaced since they were shared."""
        self.model.trunk.check_unchanged()
        device = self.model.device
        latents, sigma = self.passes(
            noisy.latents.to(device).float(), noisy.t.to(device), noisy.prompts, clean=noisy.clean
        )
        text = self.prompts.of(noisy.prompts, noisy.policy)
        scores = self.model(latents, sigma, text.prompt_embeds, text.pooled)
        return (reported(scores) if self.scoring.reported else scores).to(noisy.latents.device)

    def passes(
        self, latents: Float[Tensor, "n c h w"], t: Float[Tensor, " n"], prompts: list[str], *, clean: bool
    ) -> tuple[Float[Tensor, "k n c h w"], Float[Tensor, "k n"]]:
        """What the model is shown: latents and their levels, one pass or one for each level of the ensemble."""
        levels = self._levels(clean)
        _, sigma = self.prompts.backbone.schedule.levels(t)
        if not levels:
            return latents[None], sigma[None]
        noise = draw(prompts, latents.shape[1:], len(levels), self.scoring.seed).to(latents.device)
        made = [raise_to(latents, sigma, level, one) for level, one in zip(levels, noise, strict=True)]
        shown, reached = zip(*made, strict=True)
        return torch.stack(shown), torch.stack(reached)

    def _levels(self, clean: bool) -> tuple[float, ...]:
        """Noise to be raised to; none where latents are looked at as they are."""
        scoring = self.scoring
        if scoring.ensemble == "all" or (scoring.ensemble == "clean" and clean):
            return scoring.ensemble_levels
        return (scoring.level,) if clean else ()


def reported(scores: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """The scale of the released examples: 1 is average."""
    return (scores + 10) / 10
