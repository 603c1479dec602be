"""GenEval's settings."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from evaluators._files import place
from lpobench.plugin import EvaluatorSettings, Metric, MissingAsset

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from evaluators.geneval.live import ObjectJudge

RULES = "Ghosh et al. 2023, arXiv:2310.11513: all objects, counts, colours and positions of the prompt"


class GenEval(EvaluatorSettings):
    """GenEval: an object detector and CLIP check what a prompt counts, colours and places."""

    version: ClassVar[str] = "1"
    metrics: ClassVar[dict[str, Metric]] = {"geneval": Metric(0, 1, True, "share of images", RULES)}
    suite: ClassVar[str | None] = "geneval"
    licence: ClassVar[str] = "MIT (rules, prompts, CLIP), Apache-2.0 (detector)"
    converted: ClassVar[bool] = True
    """The detector is OpenMMLab's training, converted; Hugging Face's own folder is another training."""

    detector: str = "geneval-detector"
    """Asset, mmdet's .pth file of Mask2Former Swin-S, or the folder that `lpobench convert` made of it."""
    clip: str = "clip-vit-l14"
    """Asset or folder of OpenAI's CLIP ViT-L/14, which names colours."""

    def assets(self) -> dict[str, Path]:
        """Raises MissingAsset where the weights, or the package that resizes images, are not on this machine."""
        if find_spec("cv2") is None:
            raise MissingAsset(
                "geneval needs opencv-python-headless, to resize as mmdet does: install lpobench[geneval]"
            )
        return {"GenEval's detector": place(self.detector), "GenEval's CLIP": place(self.clip)}

    def load(self, device: torch.device, dtype: torch.dtype) -> ObjectJudge:
        """The live evaluator, in float32 whatever `dtype` is: a score decides at a threshold."""
        detector, clip = self.assets().values()
        from evaluators.geneval import weights
        from evaluators.geneval.colour import ColourClassifier
        from evaluators.geneval.detector import Detector
        from evaluators.geneval.live import ObjectJudge

        model = weights.read_converted(detector) if self.converted else weights.read_own(detector)
        classifier = ColourClassifier(weights.read_clip(clip, device))
        return ObjectJudge(Detector(model, device), classifier, self.version, self.metrics)

    def summary(self, scores: pd.DataFrame) -> dict[str, float]:
        """Of each task and overall, and of prompts with any correct image."""
        from evaluators.geneval.summary import summary

        [metric] = self.metrics
        return summary(scores, metric)

    @classmethod
    def convert(cls, file: Path, folder: Path) -> None:
        """Rewrite mmdet's checkpoint as a Hugging Face folder of safetensors."""
        from evaluators.geneval import weights

        weights.convert(file, folder)


class GenEvalFAIR(GenEval):
    """GenEval's rules on FAIR's own Mask2Former: where OpenMMLab's is not to be had; not comparable with published
    numbers.
    """

    metrics: ClassVar[dict[str, Metric]] = {
        "geneval_fair": Metric(
            0, 1, True, "share of images", f"{RULES}; detector: FAIR's, not the official one"
        )
    }
    licence: ClassVar[str] = "MIT (rules, prompts, CLIP); the detector's is not known here"
    converted: ClassVar[bool] = False

    detector: str = "geneval-detector-fair"
    """Asset or Hugging Face folder of Mask2Former Swin-S, instances of COCO."""
