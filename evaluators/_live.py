"""The live evaluator of a network that gives an image one number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from lpobench.plugin import EvaluatorSettings, Metric
from lpobench.types import Prompt

if TYPE_CHECKING:
    import pandas as pd

Rate = Callable[[Tensor, list[str]], Tensor]
"""Images (n, 3, H, W) in [0, 1] and their prompts -> n numbers."""


@dataclass(frozen=True)
class Scorer:
    """One metric."""

    version: str
    metrics: dict[str, Metric]
    rate: Rate

    @classmethod
    def of(cls, settings: EvaluatorSettings, rate: Rate) -> Scorer:
        """With the version and the metric of its settings."""
        return cls(settings.version, settings.metrics, rate)

    @torch.no_grad()
    def score(self, images: Float[Tensor, "n 3 H W"], prompts: list[Prompt]) -> pd.DataFrame:
        """One row per image."""
        import pandas as pd

        (name,) = self.metrics
        values = self.rate(images, [prompt.text for prompt in prompts])
        return pd.DataFrame({name: values.double().tolist()})
