"""The judge of shapes world as an evaluator: exact rules, no weights. GenEval's six tasks by the prompt's tag."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from lpobench.plugin import EvaluatorSettings, Metric, UserError

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from lpobench.types import Prompt

SOURCE = "lpobench.data.shapes.judge"


class Shapes(EvaluatorSettings):
    """Rule-based judge of shapes world: correctness, alignment, aesthetics, preference."""

    version: ClassVar[str] = "1"
    metrics: ClassVar[dict[str, Metric]] = {
        "correct": Metric(0, 1, True, "share of images", f"{SOURCE}: every demand of the prompt is met"),
        "alignment": Metric(0, 1, True, "share of demands", f"{SOURCE}: mean of the prompt's graded demands"),
        "aesthetics": Metric(0, 1, True, "points", f"{SOURCE}: mean of crisp, vivid, balanced, calm"),
        "preference": Metric(
            0, 5, True, "points", f"{SOURCE}: 3 alignment + 2 aesthetics, the truth behind labels"
        ),
    }

    def load(self, device: torch.device, dtype: torch.dtype) -> Shapes:
        """Nothing to load: the settings are the live evaluator."""
        return self

    def score(self, images: torch.Tensor, prompts: list[Prompt]) -> pd.DataFrame:
        """One row per image (n 3 64 64, [0, 1]); UserError on a prompt outside the grammar or another size."""
        import pandas as pd

        from lpobench.data.shapes.judge import judge
        from lpobench.data.shapes.scene import parse

        if images.shape[1:] != (3, 64, 64):
            size = "x".join(str(side) for side in images.shape[2:])
            raise UserError(f"evaluator shapes judges 64x64 images of shapes world, got {size}")
        pixels = images.permute(0, 2, 3, 1).float().cpu().numpy()
        try:
            scenes = [parse(prompt.text) for prompt in prompts]
        except ValueError as error:
            raise UserError(f"evaluator shapes: {error}; use shapes prompts or another evaluator") from None
        rows = [judge(scene, image) for scene, image in zip(scenes, pixels, strict=True)]
        return pd.DataFrame([{name: float(getattr(row, name)) for name in self.metrics} for row in rows])
