"""The live evaluator: what an image shows, against what its prompt demands."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from jaxtyping import Float, UInt8
from torch import Tensor

from evaluators._pixels import to_bytes
from evaluators.geneval.colour import ColourClassifier
from evaluators.geneval.detector import Detector
from evaluators.geneval.rules import is_correct, objects, threshold
from lpobench.data.geneval import Demands, demands_of
from lpobench.plugin import Metric
from lpobench.types import Prompt


@dataclass(frozen=True)
class ObjectJudge:
    """1 where every demand is met, else 0."""

    detector: Detector
    colours: ColourClassifier
    version: str
    metrics: dict[str, Metric]

    def score(self, images: Float[Tensor, "n 3 H W"], prompts: list[Prompt]) -> pd.DataFrame:
        """Images in [0, 1] are taken at 8 bits. Raises UserError for a prompt whose demands are not known."""
        wanted = [demands_of(prompt) for prompt in prompts]
        pairs = zip(wanted, to_bytes(images), strict=True)
        [metric] = self.metrics
        return pd.DataFrame({metric: [float(self.is_correct(*pair)) for pair in pairs]})

    def is_correct(self, demands: Demands, image: UInt8[np.ndarray, "H W 3"]) -> bool:
        """Of one image."""
        found = objects(self.detector.find(image, threshold(demands.task)), demands.task)
        return is_correct(demands, found, partial(self.colours.name, image))
