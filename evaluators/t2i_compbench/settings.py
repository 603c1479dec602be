"""T2I-CompBench's settings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import AfterValidator

from evaluators._files import place
from lpobench.data.t2i_compbench import CATEGORIES, Parses
from lpobench.data.t2i_compbench.parses import TABLE
from lpobench.plugin import EvaluatorSettings, Metric, Names

if TYPE_CHECKING:
    import torch

    from evaluators.t2i_compbench.judge import CompositionJudge

VQA, CLIP, RS200, R50, DEPTH = "BLIP-VQA", "CLIP", "UniDet RS200", "UniDet R50", "DPT-hybrid"
TOKENIZER, CODE, DETECTRON2, PARSES = "BERT's tokenizer", "UniDet's code", "detectron2", "table of parses"
VERSION = "1"
NEEDS = {
    **dict.fromkeys(("color", "shape", "texture"), (VQA, TOKENIZER)),
    "spatial": (RS200, CODE, DETECTRON2),
    "3d_spatial": (R50, CODE, DETECTRON2, DEPTH),
    "numeracy": (R50, CODE, DETECTRON2),
    "non_spatial": (CLIP,),
    "complex": (VQA, TOKENIZER, RS200, CODE, DETECTRON2, CLIP),
}
RULES = "T2I-CompBench (arXiv:2307.06350) and ++: the score of the prompt's category, its mean is the table's number"


def _known(names: tuple[str, ...]) -> tuple[str, ...]:
    unknown = [name for name in names if name not in CATEGORIES]
    if unknown or not names:
        raise ValueError(
            f"should be some of {', '.join(CATEGORIES)}, got {unknown[0] if unknown else 'none'}"
        )
    return names


class T2ICompBench(EvaluatorSettings):
    """T2I-CompBench++: attributes, relations, numbers and complex compositions, by BLIP-VQA, UniDet, depth and CLIP."""

    metrics: ClassVar[dict[str, Metric]] = {
        "t2i_compbench": Metric(-1, 1, True, "points, 0 to 1; a cosine", RULES)
    }
    suite: ClassVar[str | None] = "t2i_compbench"
    licence: ClassVar[str] = (
        "MIT (rules, prompts, CLIP), BSD-3-Clause (BLIP), Apache-2.0 (DPT, detectron2), non-commercial (UniDet's code)"
    )

    categories: Annotated[Names, AfterValidator(_known)] = CATEGORIES
    """Which may be scored: only what they need is loaded. Prompts of another are refused."""
    parses: Path | None = None
    """A table of make_parses, in place of the shipped one: of another version of spaCy's model."""
    blip: str = "blip-vqa-official"
    """BLIP-VQA capfilt-large: the released file, or a folder in transformers' layout; an asset, or a place."""
    tokenizer: str = "bert-tokenizer"
    """BERT's uncased tokenizer: an asset, or a folder."""
    clip: str = "clip-vit-b32"
    """OpenAI's CLIP ViT-B/32: an asset, or a folder in transformers' layout."""
    depth: str = "dpt-hybrid"
    """DPT-hybrid MiDaS: a folder in transformers' layout, or the released file; an asset, or a place."""
    rs200: str = "unidet-rs200"
    """UniDet's weights for relations in the plane: an asset, or a file."""
    r50: str = "unidet-r50"
    """UniDet's weights for depth and numbers: an asset, or a file."""
    unidet: str = "unidet-code"
    """The folder UniDet_eval of a clone of T2I-CompBench: an asset, or a place."""
    detectron2: str = "detectron2"
    """A clone of detectron2: an asset, or a folder."""
    online: bool = False
    """UniDet's worker may download the packages of its environment."""

    @property
    def version(self) -> str:
        """Of the rules, and of the model of spaCy that prompts were parsed with, as the table of parses says.

        The official environment has en_core_web_sm 3.5.0; another one reads a few prompts otherwise.
        """
        return f"{VERSION}+{self._parses().model.replace(' ', '-')}"

    def assets(self) -> dict[str, Path]:
        """What the chosen categories need. Raises MissingAsset or UserError."""
        names = {
            PARSES: str(self.parses or TABLE),
            VQA: self.blip,
            TOKENIZER: self.tokenizer,
            CLIP: self.clip,
            DEPTH: self.depth,
            RS200: self.rs200,
            R50: self.r50,
            CODE: self.unidet,
            DETECTRON2: self.detectron2,
        }
        needed = {PARSES, *(what for category in self.categories for what in NEEDS[category])}
        return {what: place(name) for what, name in names.items() if what in needed}

    def load(self, device: torch.device, dtype: torch.dtype) -> CompositionJudge:
        """The live evaluator, in float32 whatever `dtype` is: detections and answers decide at thresholds."""
        from evaluators.t2i_compbench.judge import CompositionJudge
        from evaluators.t2i_compbench.tools import read_tools

        tools = read_tools(self.assets(), device, self.online)
        parses = self._parses() if self.parses else None
        return CompositionJudge(tools, self.categories, self.version, self.metrics, parses)

    def _parses(self) -> Parses:
        """Raises MissingAsset and UserError."""
        return Parses.read(self.parses) if self.parses else Parses.shipped()
