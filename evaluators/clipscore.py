"""CLIPScore: the plain cosine of prompt and image, by several CLIPs (no factor 2.5, no cut at 0).

    clipscore      OpenAI ViT-B/32     T2I-CompBench's non-spatial score
    clipscore_l    OpenAI ViT-L/14     the default of t2v_metrics
    clipscore_h    LAION ViT-H/14      LPO's consistency filter
    clipscore_tiny any folder          the embedded world's own CLIP

Pixels and text as OpenAI's code prepares them, except that a prompt of more than 77 tokens is cut where T2I-CompBench
stops. float32; T2I-CompBench's own runs are in half precision on a GPU. The activation is the folder's: OpenAI's CLIPs
have QuickGELU, which open_clip 3 leaves out unless its name says so.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal

from evaluators._files import place
from evaluators._network import Network
from lpobench.plugin import Metric

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from evaluators._live import Scorer


def _metric(source: str) -> Metric:
    return Metric(-1, 1, True, "cosine", source)


class ClipScore(Network):
    """CLIPScore with OpenAI's CLIP ViT-B/32, as in T2I-CompBench: the cosine of prompt and image."""

    version: ClassVar[str] = "1"
    metrics: ClassVar[dict[str, Metric]] = {
        "clipscore": _metric("T2I-CompBench (arXiv:2307.06350), CLIPScore_eval: cosine, OpenAI ViT-B/32")
    }

    weights: str = "clip-vit-b32"
    """A CLIP: an asset, or a folder in transformers' layout."""
    text: Literal["openai", "folder"] = "openai"
    """Whose tokenizer: OpenAI's, as the released code; or the one in the folder of the weights."""

    def assets(self) -> dict[str, Path]:
        """What it reads. Raises MissingAsset or UserError."""
        return {"CLIP": place(self.weights)}

    def load(self, device: torch.device, dtype: torch.dtype) -> Scorer:
        """The live scorer; what it computes in is its own setting."""
        from evaluators._clip.prompts import PromptCache, folder_tokenizer, openai_tokenizer
        from evaluators._clip.similarity import Similarity
        from evaluators._clip.tower import tower
        from evaluators._live import Scorer
        from evaluators._pixels import Preparation

        folder = self.assets()["CLIP"]
        clip = tower(folder, self.torch_dtype(device), device)
        prepare = Preparation.read(folder / "preprocessor_config.json", clip.image_size, "round")
        size = clip.text_size
        tokenize = openai_tokenizer(*size) if self.text == "openai" else folder_tokenizer(folder, *size)
        look = partial(clip.embed_images, prepare=prepare, batch_size=self.batch_size)
        return Scorer.of(self, Similarity(look, PromptCache(tokenize, clip.embed_tokens)))


class ClipScoreL(ClipScore):
    """CLIPScore with OpenAI's CLIP ViT-L/14, as in t2v_metrics: the cosine of prompt and image."""

    metrics: ClassVar[dict[str, Metric]] = {
        "clipscore_l": _metric("t2v_metrics (arXiv:2404.01291): cosine, OpenAI ViT-L/14")
    }

    weights: str = "clip-vit-l14"
    """A CLIP: an asset, or a folder in transformers' layout."""


class ClipScoreH(ClipScore):
    """CLIPScore with LAION's CLIP ViT-H/14, as in LPO's filter of training pairs: the cosine of prompt and image."""

    metrics: ClassVar[dict[str, Metric]] = {
        "clipscore_h": _metric("LPO (arXiv:2502.01051), table 18: cosine, LAION ViT-H/14")
    }
    licence: ClassVar[str] = "MIT"

    weights: str = "clip-vit-h14"
    """A CLIP: an asset, or a folder in transformers' layout."""


class ClipScoreTiny(ClipScore):
    """CLIPScore with the shipped CLIP of shapes world, or that of any folder: the cosine of prompt and image."""

    metrics: ClassVar[dict[str, Metric]] = {
        "clipscore_tiny": _metric("rewards/tiny_clip.py: cosine, a CLIP of shapes world")
    }
    licence: ClassVar[str] = "Apache-2.0"

    weights: str = "tiny-clip"
    """A CLIP: a shipped one, or a folder in transformers' layout."""
    text: Literal["openai", "folder"] = "folder"
    """Whose tokenizer: OpenAI's; or the one in the folder of the weights."""
