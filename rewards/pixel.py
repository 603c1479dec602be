"""Any evaluator as a reward: on a step's decoded x0 estimate, or on the finished image.

Images are rounded to 8 bits first, as they are for the table, so that the reward of a finished image is the
evaluator's score of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, model_validator

from lpobench.plugin import EvaluatorSettings, RewardSettings, UserError
from lpobench.problems import hint
from lpobench.slots import DEFAULTS, make, name_of, slot

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float
    from torch import Tensor

    from lpobench.sampling.rollout import Noisy
    from lpobench.types import Backbone, Evaluator

USUAL = "preference"


class Pixel(RewardSettings):
    """Any evaluator as a reward: scores the decoded x0 estimate of a step, or the finished image."""

    evaluator: Annotated[EvaluatorSettings, *slot("evaluators")] = Field(
        default_factory=lambda: make("evaluators", DEFAULTS["evaluators"])
    )
    """What scores the images: a name, or a table of the evaluator's settings with its `name`."""
    metric: str | None = None
    """Which of its scores; where less is better, its negative. Unset: `preference`, or the only one it has."""
    scale: float = Field(1.0, gt=0)
    """The score is multiplied by this: gaps and temperatures that were tuned on another reward may need it."""

    @model_validator(mode="after")
    def _has_the_metric(self) -> Pixel:
        known = self.evaluator.metrics
        if self.metric is None and USUAL not in known and len(known) != 1:
            raise UserError(
                f"evaluator {name_of(self.evaluator)} has several scores, choose one as metric; "
                f"known: {', '.join(known)}"
            )
        if self.chosen not in known:
            raise UserError(
                f'evaluator {name_of(self.evaluator)} has no metric "{self.metric}"; '
                f"{hint(self.chosen, known)}"
            )
        return self

    @property
    def version(self) -> str:
        """The evaluator's."""
        return self.evaluator.version

    @property
    def chosen(self) -> str:
        """The metric that is read."""
        known = self.evaluator.metrics
        return self.metric or (USUAL if USUAL in known else next(iter(known), USUAL))

    def reads(self) -> frozenset[tuple[str, str]]:
        """The chosen metric."""
        return frozenset({(name_of(self.evaluator), self.chosen)})

    def load(self, backbone: Backbone, device: torch.device, dtype: torch.dtype) -> EvaluatedImages:
        """The live reward. Evaluators run in float32, whatever `dtype` is."""
        import torch

        better = 1 if self.evaluator.metrics[self.chosen].higher_is_better else -1
        return EvaluatedImages(self.evaluator.load(device, torch.float32), self.chosen, better * self.scale)


@dataclass(frozen=True)
class EvaluatedImages:
    """The live reward."""

    evaluator: Evaluator
    metric: str
    factor: float
    latent_space: str | None = None
    differentiable: bool = False

    def score(self, noisy: Noisy) -> Float[Tensor, " n"]:
        """factor * metric; NaN where an image is not finite, which no evaluator is shown."""
        import torch

        from lpobench.types import Prompt

        images = noisy.images.detach()
        broken = ~images.isfinite().flatten(1).all(1)
        exact = (images.nan_to_num(0, 0, 0).float() * 255).round() / 255
        prompts = [Prompt(text, "") for text in noisy.prompts]
        found = self.evaluator.score(exact, prompts)[self.metric].to_numpy(float)
        scores = torch.tensor(found, device=images.device, dtype=torch.float32) * self.factor
        return torch.where(broken, torch.nan, scores).to(noisy.latents.device)
