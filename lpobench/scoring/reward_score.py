"""The step reward as a judge of finished images: what a method optimised, measured like any other score."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from lpobench.plugin import Metric
from lpobench.sampling import Noisy, Policy
from lpobench.types import Prompt, RewardModel


class RewardScore:
    """Finished images through the VAE's encoder, scored without noise; the metric has the reward's name.

    It is loaded anyway, so the one that is to judge and the one that scores are the same.
    """

    def __init__(self, name: str, version: str, reward: RewardModel, policy: Policy):
        self.label, self.version, self.reward, self.policy = name, version, reward, policy
        meaning = "score of a finished image, without noise"
        self.metrics = {
            name: Metric(float("-inf"), float("inf"), True, "reward", f"reward {name}: {meaning}")
        }

    def facts(self) -> dict[str, Any]:
        """None: the version says it all."""
        return {}

    @contextmanager
    def live(self, device: torch.device) -> Iterator[RewardScore]:
        """Itself."""
        yield self

    def score(self, images: Float[Tensor, "n 3 H W"], prompts: list[Prompt]) -> pd.DataFrame:
        """One row per image."""
        texts = [prompt.text for prompt in prompts]
        with torch.no_grad():
            scores = self.reward.score(Noisy.of_images(images, texts, self.policy))
        return pd.DataFrame({self.label: scores.double().cpu().numpy()})
