"""The control: a real reward model's scores, shuffled. The procedure is the same, the signal is gone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from lpobench.plugin import RewardSettings
from rewards.lrm import LRM

if TYPE_CHECKING:
    import torch

    from lpobench.types import Backbone
    from rewards.shuffled import ShuffledReward


class RandomReward(RewardSettings):
    """Control: the LRM's scores shuffled among each prompt's candidates; gaps stay, the signal goes."""

    judges: ClassVar[bool] = False

    base: LRM = LRM()
    """The reward whose scores are shuffled."""
    seed: int = 0
    """Which shuffles."""

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
