"""The control: a real reward's scores, shuffled. The procedure is the same, the signal is gone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import PlainSerializer, SerializationInfo

from lpobench.plugin import RewardSettings
from lpobench.slots import name_of, slot
from rewards.lrm import LRM

if TYPE_CHECKING:
    import torch

    from lpobench.types import Backbone
    from rewards.shuffled import ShuffledReward


def _written(base: RewardSettings, info: SerializationInfo) -> dict[str, Any]:
    """An LRM without its name: runs keep the id that they had before there was a choice."""
    name = {} if isinstance(base, LRM) else {"name": name_of(base)}
    return name | base.model_dump(mode=info.mode)


class RandomReward(RewardSettings):
    """Control: a reward's scores shuffled among each prompt's candidates; gaps stay, the signal goes."""

    judges: ClassVar[bool] = False

    base: Annotated[RewardSettings, slot("reward")[0], PlainSerializer(_written)] = LRM()
    """The reward whose scores are shuffled: its name, or a table of its settings with its `name`."""
    seed: int = 0
    """Which shuffles."""

    @property
    def version(self) -> str:
        """That of the reward that is shuffled."""
        return self.base.version

    @property
    def latent_space(self) -> str | None:
        return self.base.latent_space

    def assets(self) -> dict[str, Path]:
        return self.base.assets()

    def training_data(self) -> dict[str, Path | str]:
        return self.base.training_data()

    def load(self, backbone: Backbone, device: torch.device, dtype: torch.dtype) -> ShuffledReward:
        from rewards.shuffled import ShuffledReward

        return ShuffledReward(self.base.load(backbone, device, dtype), self.seed)

    def train(
        self, backbone: Backbone, folder: Path, *, seed: int, device: torch.device, dtype: torch.dtype
    ) -> RandomReward:
        """Train the reward that is shuffled."""
        trained = self.base.train(backbone, folder, seed=seed, device=device, dtype=dtype)
        return self.model_copy(update={"base": trained})

    def measured(self) -> dict[str, list[dict[str, float]]]:
        """Of the reward that is shuffled."""
        return self.base.measured()
