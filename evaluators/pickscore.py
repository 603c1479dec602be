"""PickScore (arXiv:2305.01569): a CLIP ViT-H/14 fine-tuned on Pick-a-Pic.

    score = exp(logit_scale) cos(text, image)          the released scale is 100

As the released demo, without its softmax over images; image through PIL, short side 224, centre crop, and the
tokenizer of LAION's CLIP ViT-H/14. float32.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, ClassVar

from evaluators._files import place
from evaluators._network import Network
from lpobench.plugin import Metric

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from evaluators._live import Scorer

SOURCE = "arXiv:2305.01569, released code: exp(logit scale) times cosine; usually 18 to 24"


class PickScore(Network):
    """PickScore: what people who use text-to-image models would pick, by a fine-tuned CLIP ViT-H/14."""

    version: ClassVar[str] = "1"
    metrics: ClassVar[dict[str, Metric]] = {"pickscore": Metric(-100, 100, True, "points", SOURCE)}

    weights: str = "pickscore"
    """Its CLIP: an asset, or a folder in transformers' layout."""
    processor: str = "clip-vit-h14-processor"
    """Tokenizer and preprocessor_config.json: an asset, or a folder."""

    def assets(self) -> dict[str, Path]:
        """What it reads. Raises MissingAsset or UserError."""
        return {"PickScore's weights": place(self.weights), "PickScore's processor": place(self.processor)}

    def load(self, device: torch.device, dtype: torch.dtype) -> Scorer:
        """The live scorer; what it computes in is its own setting."""
        from evaluators._clip.prompts import PromptCache, folder_tokenizer
        from evaluators._clip.similarity import Similarity
        from evaluators._clip.tower import tower
        from evaluators._live import Scorer
        from evaluators._pixels import Preparation

        folder, processor = self.assets().values()
        clip = tower(folder, self.torch_dtype(device), device)
        prepare = Preparation.read(processor / "preprocessor_config.json", clip.image_size, "floor")
        texts = PromptCache(folder_tokenizer(processor, *clip.text_size), clip.embed_tokens)
        look = partial(clip.embed_images, prepare=prepare, batch_size=self.batch_size)
        return Scorer.of(self, Similarity(look, texts, clip.scale))
