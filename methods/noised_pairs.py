"""What methods that learn from noised preference pairs have in common: how the pairs are noised."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from lpobench import learning
from lpobench.plugin import MethodSettings, Need

if TYPE_CHECKING:
    from lpobench.learning import ImagePairs, NoisedPairs
    from lpobench.types import Context

Probability = Annotated[float, Field(ge=0, le=1)]
Timestep = Annotated[int, Field(ge=0, le=999)]
EVERY: tuple[Timestep, Timestep] = (0, 999)


class NoisingSettings(MethodSettings):
    """How a data set's preference pairs are noised: once per round, winner and loser alike."""

    timesteps: Literal["uniform", "training"] = "uniform"
    """how a pair's timestep is drawn: uniform over timestep_range, or as in the backbone's own training"""
    timestep_range: tuple[Timestep, Timestep] = EVERY
    """least and most noisy timestep, ends included; 0, 199 is what an SDXL refiner was trained on"""
    caption_dropout: Probability = 0.0
    """share of the pairs that lose their caption, to train the unguided branch too"""
    mirror: Probability = 0.0
    """share of the pairs whose latents, both, are mirrored left to right. They decode only roughly to mirrored
    images (tiny-sd15: 21 dB), and captions still say left and right"""

    needs: ClassVar[frozenset[Need]] = frozenset({"pairs"})

    @model_validator(mode="after")
    def _check(self) -> Self:
        low, high = self.timestep_range
        if low > high:
            raise ValueError(f"timestep_range is {[low, high]}; the smaller timestep comes first")
        if self.timesteps == "training" and self.timestep_range != EVERY:
            raise ValueError(f"timestep_range is {[low, high]}; it needs timesteps uniform")
        return self

    def noised(self, ctx: Context, pairs: ImagePairs) -> NoisedPairs:
        """The shard's pairs of a round, noised as the settings say."""
        return learning.noised(
            ctx,
            pairs,
            timestep_range=self.timestep_range if self.timesteps == "uniform" else None,
            caption_dropout=self.caption_dropout,
            mirror=self.mirror,
        )


class NoisedPairsMethod(NoisingSettings):
    """Learns from the pairs as the data set has them."""

    def collect(self, ctx: Context) -> NoisedPairs:
        """A row per pair."""
        return self.noised(ctx, ctx.next_pairs())
