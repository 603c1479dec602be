"""Several rewards as one: sum over parts of weight * (score - mean) / std.

`mean` and `std` are settings, measured once (`lpobench reward eval` prints them), and not taken from what happens
to be scored together: a row's score depends on that row alone, and a run needs no state to be resumed.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, model_validator

from lpobench.plugin import MissingAsset, RewardSettings, Settings, UserError
from lpobench.slots import DEFAULTS, make, name_of, slot

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float
    from torch import Tensor

    from lpobench.sampling.rollout import Noisy
    from lpobench.types import Backbone, RewardModel


class Part(Settings):
    """One reward of a sum."""

    reward: Annotated[RewardSettings, *slot("reward")]
    """A reward: its name, or a table of its settings with its `name`."""
    weight: float = 1.0
    """Its share; negative punishes."""
    mean: float = 0.0
    """Subtracted from its score."""
    std: float = Field(1.0, gt=0)
    """What is left is divided by this; see `spread` of `lpobench reward eval`."""


class WeightedSum(RewardSettings):
    """A weighted sum of rewards, each shifted and scaled by numbers measured beforehand."""

    parts: tuple[Part, ...] = Field(
        default_factory=lambda: (
            Part(reward=make("reward", DEFAULTS["reward"])),
            Part(reward=make("reward", "pixel")),
        ),
        min_length=1,
    )
    """Tables of `reward`, `weight`, `mean` and `std`, such as [{reward = "lrm"}, {reward = "pixel", weight = 0.5}]."""

    @model_validator(mode="after")
    def _one_space(self) -> WeightedSum:
        with suppress(MissingAsset):  # a part is not trained yet: who loads it asks again
            _ = self.latent_space
        return self

    @property
    def version(self) -> str:
        """Those of the parts."""
        return ",".join(part.reward.version for part in self.parts)

    @property
    def latent_space(self) -> str | None:
        """That of the parts that read latents. Raises UserError where they differ."""
        read = {name: part.reward.latent_space for name, part in self._named()}
        spaces = {name: space for name, space in read.items() if space is not None}
        if len(set(spaces.values())) > 1:
            told = ", ".join(f"{name} reads {space}" for name, space in spaces.items())
            raise UserError(f"the parts of a sum must read the same latents: {told}")
        return next(iter(spaces.values()), None)

    def reads(self) -> frozenset[tuple[str, str]]:
        """What the parts read."""
        return frozenset().union(*(part.reward.reads() for part in self.parts))

    def assets(self) -> dict[str, Path]:
        return {
            f"{what} of {name}": path
            for name, part in self._named()
            for what, path in part.reward.assets().items()
        }

    def load(self, backbone: Backbone, device: torch.device, dtype: torch.dtype) -> SummedRewards:
        """The live reward; its parts look at the same estimate and images, which are made once."""
        parts = [
            LivePart(part.reward.load(backbone, device, dtype), part.weight / part.std, part.mean)
            for part in self.parts
        ]
        return SummedRewards(parts, self.latent_space, all(part.reward.differentiable for part in parts))

    def training_data(self) -> dict[str, Path | str]:
        return {
            f"{what} of {name}": place
            for name, part in self._named()
            for what, place in part.reward.training_data().items()
        }

    def train(
        self, backbone: Backbone, folder: Path, *, seed: int, device: torch.device, dtype: torch.dtype
    ) -> WeightedSum:
        """Train every part that has a training, each into a folder of its own; the others stay as they are."""
        if not any(map(has_training, self.parts)):
            names = ", ".join(name_of(part.reward) for part in self.parts)
            raise UserError(f"no part of the sum has a training ({names}); run without --train-reward")
        trained = []
        for place, part in enumerate(self.parts):
            if has_training(part):
                here = folder / f"part-{place}"
                here.mkdir(parents=True, exist_ok=True)
                reward = part.reward.train(backbone, here, seed=seed, device=device, dtype=dtype)
                part = part.model_copy(update={"reward": reward})
            trained.append(part)
        return self.model_copy(update={"parts": tuple(trained)})

    def measured(self) -> dict[str, list[dict[str, float]]]:
        return {
            f"{name}: {split}": rows
            for name, part in self._named()
            for split, rows in part.reward.measured().items()
        }

    def _named(self) -> list[tuple[str, Part]]:
        """Parts by what messages call them."""
        return [(f"part {place} ({name_of(part.reward)})", part) for place, part in enumerate(self.parts)]


def has_training(part: Part) -> bool:
    return type(part.reward).train is not RewardSettings.train


@dataclass(frozen=True)
class LivePart:
    """A loaded reward, what it is multiplied by (weight / std), and its mean."""

    reward: RewardModel
    factor: float
    mean: float


@dataclass(frozen=True)
class SummedRewards:
    """The live reward."""

    parts: Sequence[LivePart]
    latent_space: str | None
    differentiable: bool

    def score(self, noisy: Noisy) -> Float[Tensor, " n"]:
        """A row that one part gives no finite score has none. No gradient passes where one part passes none."""
        first, *others = [part.factor * (part.reward.score(noisy) - part.mean) for part in self.parts]
        total = sum(others, first)
        return total if self.differentiable else total.detach()
