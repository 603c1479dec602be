"""How a reward scores labelled pairs at every noise level: what its training and its tables of accuracy share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lpobench.data.pairs import LatentPairs, PairBatch
from lpobench.sampling.schedule import Schedule

Scores = tuple[Float[Tensor, " n"], Float[Tensor, " n"]]
"""Of the first and of the second image of each pair."""


class PairModel(Protocol):
    """A network that is fitted: an nn.Module that says what of it is trained."""

    training: bool

    @property
    def device(self) -> torch.device: ...

    def trainable(self) -> dict[str, nn.Parameter]: ...

    def train(self, mode: bool = True) -> nn.Module: ...


@dataclass(frozen=True)
class PairScorer:
    """A network, and how it scores pairs at timesteps t with given noise."""

    model: PairModel
    score: Callable[[PairBatch, Float[Tensor, " n"], Float[Tensor, "images n c h w"]], Scores]
    num_noises: Literal[1, 2]
    """Noise of a pair's two images: shared, or one each."""


def grid(schedule: Schedule) -> Float[Tensor, " 20"]:
    """The timesteps a 20-step sampling run visits; accuracies are reported there."""
    return schedule.timesteps(20)[:-1]


def draw_noise(
    pairs: LatentPairs, num: int, generator: torch.Generator, num_noises: Literal[1, 2] = 2
) -> Float[Tensor, "images n c h w"]:
    """Of a whole batch, whatever part of it is used: draws do not depend on the number of processes."""
    return torch.randn((num_noises, num, *pairs.latents.shape[1:]), generator=generator)
