"""ImageReward v1.0 (arXiv:2304.05977): BLIP's image-grounded text encoder with a head, trained on expert rankings.

    score = (head(BERT(prompt, attending to ViT(image))[CLS]) - 0.16717) / 1.03334

picture: short side 224, bicubic PIL, torchvision's centre crop; text: BERT's tokenizer, 35 tokens, padded and cut. Text
keeps its [CLS]; LayerNorms of the ViT have eps 1e-6. float32, as released.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

from evaluators._files import place
from evaluators._network import Network
from lpobench.plugin import Metric

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from evaluators._live import Scorer

SOURCE = "arXiv:2304.05977, released code: standardised, about N(0, 1) on its own images; no bound"


class ImageReward(Network):
    """ImageReward: experts' ranking of images for a prompt, by a fine-tuned BLIP."""

    version: ClassVar[str] = "1"
    metrics: ClassVar[dict[str, Metric]] = {
        "imagereward": Metric(-math.inf, math.inf, True, "standard deviations", SOURCE)
    }
    licence: ClassVar[str] = "Apache-2.0"
    official: ClassVar[str | None] = "image-reward"

    weights: str = "imagereward"
    """The released folder, ImageReward.pt and med_config.json: an asset, or a place on disk."""
    tokenizer: str = "bert-tokenizer"
    """BERT's uncased tokenizer: an asset, or a folder."""

    def assets(self) -> dict[str, Path]:
        """What it reads. Raises MissingAsset or UserError."""
        return {"ImageReward's weights": place(self.weights), "BERT's tokenizer": place(self.tokenizer)}

    def official_options(self) -> dict[str, str]:
        folder, words = self.assets().values()
        files = {
            "weights": folder / "ImageReward.pt",
            "config": folder / "med_config.json",
            "tokenizer": words,
        }
        return {name: str(path) for name, path in files.items()}

    def load(self, device: torch.device, dtype: torch.dtype) -> Scorer:
        """The live scorer; what it computes in is its own setting."""
        from evaluators._blip.imagereward import read_network, tokenizer
        from evaluators._live import Scorer

        folder, words = self.assets().values()
        network = read_network(folder, self.torch_dtype(device)).to(device)
        tokenize = tokenizer(words, network.vocabulary)
        return Scorer.of(
            self, lambda images, prompts: network.score(images, tokenize(prompts), self.batch_size)
        )
