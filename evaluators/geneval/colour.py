"""Which of ten colours an object has: CLIP ViT-L/14, zero-shot, on the object cut out of the image.

As clip_benchmark's zero-shot classifier, which the official tool calls: a colour is the mean of three unit text
embeddings, made a unit again. CLIP's own activation is QuickGELU, which its config.json says.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn.functional import normalize

from evaluators._clip.prompts import openai_tokenizer
from evaluators._clip.tower import Tower
from evaluators._pixels import Preparation
from evaluators.geneval.rules import Found
from lpobench.data.geneval import COLOURS

TEMPLATES = (
    "a photo of a {colour} {name}",
    "a photo of a {colour}-colored {name}",
    "a photo of a {colour} object",
)
BACKGROUND = np.uint8((0x99, 0x99, 0x99))
Picture = UInt8[np.ndarray, "H W 3"]


class ColourClassifier:
    """Colours of objects; the text side is computed once for each class."""

    def __init__(self, clip: Tower) -> None:
        self.clip, self.tokenize = clip, openai_tokenizer(*clip.text_size)
        self.prepare = Preparation(clip.image_size, "round")
        self.classes: dict[str, Float[Tensor, "colours d"]] = {}

    def name(self, image: Picture, objects: Sequence[Found], name: str) -> list[str]:
        """The colour of each object, all of one class."""
        crops = [cut_out(image, one) for one in objects]
        return [COLOURS[place] for place in self.cosines(crops, name).argmax(1).tolist()]

    @torch.no_grad()
    def cosines(self, crops: Sequence[Picture], name: str) -> Float[Tensor, "n colours"]:
        """One crop at a time. On a GPU the network runs in float16 under autocast, as the official tool's."""
        device = self.clip.device
        with torch.autocast(device.type, torch.float16, enabled=device.type == "cuda"):
            if name not in self.classes:
                self.classes[name] = torch.stack([self._embed(colour, name) for colour in COLOURS])
            features = [
                self.clip.embed_images(torch.from_numpy(crop).movedim(-1, 0)[None] / 255, self.prepare, 1)
                for crop in crops
            ]
        return torch.cat(features) @ self.classes[name].T

    def _embed(self, colour: str, name: str) -> Float[Tensor, " d"]:
        texts = [template.format(colour=colour, name=name) for template in TEMPLATES]
        return normalize(self.clip.embed_tokens(self.tokenize(texts)).mean(0), dim=0)


def cut_out(image: Picture, found: Found) -> Picture:
    """The object on grey, and no more of it than its box."""
    left, top, right, bottom = (int(side) for side in found.box)
    return np.where(found.mask[..., None], image, BACKGROUND)[top:bottom, left:right]
