"""The live evaluator: the score of each image in its prompt's category."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import pandas as pd
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from evaluators._blip.vqa import Questioner
from evaluators._clip.similarity import Similarity
from evaluators._pixels import to_bytes
from evaluators.t2i_compbench.depth import DepthMeter
from evaluators.t2i_compbench.detections import Detections, Detector, framed
from evaluators.t2i_compbench.numeracy import number_score
from evaluators.t2i_compbench.relations import depth_score, planar_score
from lpobench.data.t2i_compbench import Demand, Parses, demand_of
from lpobench.plugin import Metric, UserError
from lpobench.types import Prompt


@dataclass(frozen=True)
class Tools:
    """What looks at images; those that no category needs are None."""

    questioner: Questioner | None = None
    """Of noun phrases: color, shape, texture, complex."""
    similarity: Similarity | None = None
    """Of text and image: non_spatial, complex."""
    planar: Detector | None = None
    """UniDet RS200: spatial, complex."""
    detector: Detector | None = None
    """UniDet R50: 3d_spatial, numeracy."""
    depth: DepthMeter | None = None
    """3d_spatial."""


@dataclass(frozen=True)
class CompositionJudge:
    """One image at a time: a score does not depend on what else is scored."""

    tools: Tools
    categories: tuple[str, ...]
    version: str
    metrics: dict[str, Metric]
    parses: Parses | None = None
    """In place of what prompts carry."""

    def score(self, images: Float[Tensor, "n 3 H W"], prompts: list[Prompt]) -> pd.DataFrame:
        """Images in [0, 1] are taken at 8 bits. Raises UserError for a prompt of no category, or of another one."""
        demands = [self._demand(prompt) for prompt in prompts]
        pictures = zip(images.split(1), to_bytes(images), demands, strict=True)
        [metric] = self.metrics
        return pd.DataFrame({metric: [self._score(*picture) for picture in pictures]}, dtype=float)

    def _demand(self, prompt: Prompt) -> Demand:
        demand = demand_of(prompt, self.parses)
        if demand.category not in self.categories:
            raise UserError(
                f'"{prompt.text}" is a {demand.category} prompt of T2I-CompBench; t2i_compbench.categories has '
                f"{', '.join(self.categories)}"
            )
        return demand

    def _score(
        self, image: Float[Tensor, "1 3 H W"], picture: UInt8[np.ndarray, "H W 3"], demand: Demand
    ) -> float:
        match demand.category:
            case "color" | "shape" | "texture":
                return self._attribute(image, demand)
            case "spatial":
                return self._planar(picture, demand)
            case "3d_spatial":
                found = self._found(self.tools.detector, picture)
                return depth_score(demand.objects, demand.relation, found, self.tools.depth.map(picture))
            case "numeracy":
                return number_score(demand.objects, demand.counts, self._found(self.tools.detector, picture))
            case "non_spatial":
                return self._text(image, demand)
        parts: dict[str, Callable[[], float]] = {
            "attribute": lambda: self._attribute(image, demand),
            "spatial": lambda: self._planar(picture, demand),
            "action": lambda: self._text(image, demand),
        }
        return fmean(parts[part]() for part in demand.parts)

    def _attribute(self, image: Float[Tensor, "1 3 H W"], demand: Demand) -> float:
        """BLIP-VQA."""
        [chances] = self.tools.questioner.agree(image, [[f"{phrase}?" for phrase in demand.phrases]])
        return product(chances)

    def _planar(self, picture: UInt8[np.ndarray, "H W 3"], demand: Demand) -> float:
        return planar_score(demand.objects, demand.relation, self._found(self.tools.planar, picture))

    def _text(self, image: Float[Tensor, "1 3 H W"], demand: Demand) -> float:
        """CLIPScore."""
        return self.tools.similarity(image, [demand.text]).item()

    def _found(self, detector: Detector, picture: UInt8[np.ndarray, "H W 3"]) -> Detections:
        [found] = detector.find([np.asarray(framed(Image.fromarray(picture)))])
        return found


def product(chances: list[float]) -> float:
    """Of probabilities, each rounded to 4 decimals as the official scripts write them to a file; so is the product,
    taken in single precision. 1 where nothing is asked.
    """
    whole = np.float32(1)
    for chance in chances:
        whole *= np.float32(f"{chance:.4f}")
    return float(f"{whole:.4f}")
