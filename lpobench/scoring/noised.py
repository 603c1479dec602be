"""Clean latents brought to a noise level to be scored there, each with noise of its own.

A level is a timestep in the backbone's units, or None: finished, without noise. The noise of a row follows from
what the row is, so that its score depends neither on the batch nor on what else is scored.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from lpobench.plugin import UserError
from lpobench.sampling import Noisy, Policy
from lpobench.scoring.generate import noise
from lpobench.types import Backbone

Level = float | None
FINISHED = "finished"


class NoFiniteScore(UserError):
    """A model whose scores are not numbers."""

    exit_code = 4


def parse_level(text: str, backbone: Backbone) -> Level:
    """A level as users write it. Raises UserError where the backbone has no such timestep."""
    if text == FINISHED:
        return None
    last = 1000 if backbone.schedule.prediction == "flow" else 999
    try:
        t = float(text)
    except ValueError:
        raise UserError(f'timestep "{text}": should be a number from 0 to {last}, or {FINISHED}') from None
    if not 0 <= t <= last or (backbone.schedule.prediction != "flow" and t != int(t)):
        kind = "a number" if backbone.schedule.prediction == "flow" else "a whole number"
        raise UserError(
            f"timestep {text}: should be {kind} from 0 to {last} for {backbone.name}, or {FINISHED}"
        )
    return t


def level_name(level: Level) -> str:
    """A level in a table."""
    return FINISHED if level is None else f"{level:g}"


def usual_levels(backbone: Backbone) -> list[Level]:
    """The timesteps that a 20-step sampling run visits, noise first, and the finished image."""
    return [*backbone.schedule.timesteps(20)[:-1].tolist(), None]


def at_level(
    policy: Policy,
    latents: Float[Tensor, "n c h w"],
    prompts: list[str],
    level: Level,
    names: Sequence[str],
    seed: int,
) -> Noisy:
    """Clean latents at a level; rows of one name get the same noise."""
    latents = latents.to(policy.backbone.device)
    if level is None:
        return Noisy.finished(latents.to(policy.latent_dtype), prompts, policy)
    t = torch.full((len(latents),), level, device=latents.device)
    alpha, sigma = (value.view(-1, 1, 1, 1) for value in policy.backbone.schedule.levels(t))
    drawn = {
        name: noise(tuple(latents.shape[1:]), f"{name} at {level:g}", 0, seed)
        for name in dict.fromkeys(names)
    }
    spread = torch.stack([drawn[name] for name in names]).to(latents.device)
    return Noisy((alpha * latents + sigma * spread).to(policy.latent_dtype), t, prompts, policy)
