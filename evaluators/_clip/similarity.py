"""A scaled cosine of an image and its prompt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from evaluators._clip.prompts import PromptCache


@dataclass(frozen=True)
class Similarity:
    """Between -scale and scale."""

    images: Callable[[Tensor], Float[Tensor, "n d"]]
    """Unit vectors in float32, of images in [0, 1]."""
    texts: PromptCache
    scale: float = 1.0

    def __call__(self, images: Float[Tensor, "n 3 H W"], prompts: list[str]) -> Float[Tensor, " n"]:
        return self.scale * (self.images(images) * self.texts(prompts)).sum(-1)
