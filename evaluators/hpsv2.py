"""Human Preference Score v2 (arXiv:2306.09341): a CLIP ViT-H/14 fine-tuned on human choices.

    score = cos(text, image)          times 100 in most tables

    picture   scaled to fit 224 x 224 as a float image, bicubic, then black borders: nothing is cropped
    text      OpenAI's tokenizer, cut at 77 tokens with the end kept

v2.0 and v2.1 are two sets of weights and two metrics. As released on a GPU: half precision by autocast over float32
weights; here only the last product stays in float32, where the released code rounds it to half, 2^-12 apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from evaluators._files import place
from evaluators._network import Network
from lpobench.plugin import Metric

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from evaluators._live import Scorer


class HPSv2(Network):
    """HPS v2.0: people's choice between images, by a fine-tuned CLIP ViT-H/14."""

    version: ClassVar[str] = "1"
    metrics: ClassVar[dict[str, Metric]] = {
        "hpsv2": Metric(-1, 1, True, "cosine", "arXiv:2306.09341, weights v2.0; 0.2 to 0.3")
    }
    licence: ClassVar[str] = "Apache-2.0"
    on_gpu: ClassVar[Literal["float32", "float16", "bfloat16"]] = "float16"
    official: ClassVar[str | None] = "hpsv2x"

    weights: str = "hpsv2"
    """The released weights: an asset, or a file, .pt or .safetensors."""
    architecture: str = "ViT-H-14"
    """What they are weights of: a name open_clip knows, or a file with a model's configuration in open_clip's form."""
    antialias: bool = True
    """Whether pixels are smoothed when the picture shrinks: true as with torchvision 0.17 and later (LPO's tables),
    false as with earlier ones (the tables of HPSv2's own README)."""

    def assets(self) -> dict[str, Path]:
        """What it reads. Raises MissingAsset or UserError."""
        return {"HPS weights": place(self.weights)}

    def official_options(self) -> dict[str, str]:
        return {"weights": str(self.assets()["HPS weights"])}

    def load(self, device: torch.device, dtype: torch.dtype) -> Scorer:
        """The live scorer; what it computes in is its own setting."""
        from evaluators._clip.hps import read_model, similarity
        from evaluators._live import Scorer

        model = read_model(self.assets()["HPS weights"], self.architecture).to(device)
        return Scorer.of(self, similarity(model, self.torch_dtype(device), self.batch_size, self.antialias))


class HPSv21(HPSv2):
    """HPS v2.1: people's choice between images, by a fine-tuned CLIP ViT-H/14; later weights than v2.0."""

    metrics: ClassVar[dict[str, Metric]] = {
        "hpsv21": Metric(-1, 1, True, "cosine", "arXiv:2306.09341, weights v2.1; 0.2 to 0.35")
    }

    weights: str = "hpsv2.1"
    """The released weights: an asset, or a file, .pt or .safetensors."""
