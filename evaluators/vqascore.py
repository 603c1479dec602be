"""VQAScore (arXiv:2404.01291): would a CLIP-FlanT5 answer Yes to `Does this figure show "{prompt}"?`

    score = exp(mean over the answer's tokens of log p(token))         the answer is "Yes" and the end of text

so it is the geometric mean of p(Yes) and p(end | Yes), not p(Yes). Pictures are padded to a square in the mean colour,
336 pixels, through PIL; 576 patches of CLIP's second last layer take the place of <image> in the prompt; T5's tokenizer
ends both halves of the text around it. As released on a GPU: bfloat16 weights and autocast.
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

SOURCE = "arXiv:2404.01291, t2v_metrics 1.2, clip-flant5"


class VQAScore(Network):
    """VQAScore by CLIP-FlanT5-XXL: the probability of a yes to "does this figure show" the prompt."""

    version: ClassVar[str] = "1"
    metrics: ClassVar[dict[str, Metric]] = {"vqascore": Metric(0, 1, True, "probability", f"{SOURCE}-xxl")}
    on_gpu: ClassVar[Literal["float32", "float16", "bfloat16"]] = "bfloat16"
    official: ClassVar[str | None] = "t2v-metrics"
    official_model: ClassVar[str] = "clip-flant5-xxl"
    """What t2v_metrics calls it."""

    weights: str = "vqascore-xxl"
    """CLIP-FlanT5: an asset, or a folder."""
    tokenizer: str = "flan-t5-xxl-tokenizer"
    """Its tokenizer, with tokenizer.json: an asset, or a folder."""
    eye: str = "clip-vit-l14-336"
    """Its CLIP, read for its sizes and pixels, and for its weights where `weights` has none of them: an asset, or a
    folder."""

    def assets(self) -> dict[str, Path]:
        """What it reads. Raises MissingAsset or UserError."""
        names = {"CLIP-FlanT5": self.weights, "FLAN-T5's tokenizer": self.tokenizer, "its CLIP": self.eye}
        return {word: place(name) for word, name in names.items()}

    def official_options(self) -> dict[str, str]:
        places = zip(("weights", "tokenizer", "eye"), self.assets().values(), strict=True)
        return {"model": self.official_model, **{name: str(path) for name, path in places}}

    def load(self, device: torch.device, dtype: torch.dtype) -> Scorer:
        """The live scorer; what it computes in is its own setting."""
        from evaluators._flant5.network import read_network
        from evaluators._flant5.question import Questions
        from evaluators._live import Scorer

        folder, words, eye = self.assets().values()
        network = read_network(folder, eye, self.torch_dtype(device)).to(device)
        questions = Questions.read(words, network.vocabulary)
        return Scorer.of(
            self, lambda images, prompts: network.score(images, prompts, questions, self.batch_size)
        )


class VQAScoreXL(VQAScore):
    """VQAScore by CLIP-FlanT5-XL: the probability of a yes to "does this figure show" the prompt."""

    metrics: ClassVar[dict[str, Metric]] = {"vqascore_xl": Metric(0, 1, True, "probability", f"{SOURCE}-xl")}

    official_model: ClassVar[str] = "clip-flant5-xl"

    weights: str = "vqascore-xl"
    """CLIP-FlanT5: an asset, or a folder."""
    tokenizer: str = "flan-t5-xl-tokenizer"
    """Its tokenizer, with tokenizer.json: an asset, or a folder."""
