"""IterComp (arXiv:2410.07171), the alignment half of one iteration: ReFL on a late step's decoded x0 estimate.

Known from the public repository: a random stop among steps 30 to 39 of a 40-step schedule, gradient through that
step's estimate alone, relu(2 - score) times 1e-3, no guidance, SDXL at 64 x 64 latents, learning rate 1e-5, 200
updates of 64 prompts, and an average of the weights. Of these the method sets the loss and the range (t <= 226 is
those ten steps of Stable Diffusion's schedule); the rest is the run's: `sampling.num_steps = 40`,
`sampling.guidance_scale = 1`, `train.learning_rate = 1e-5`, `train.num_updates = 200`.

Not here, because it is not to be had: the three composition-aware reward models (attributes, spatial and non-spatial
relations), of which the loss is the sum, each with its own hinge; the gallery of six models that they are trained on;
the iterations in which both grow. One reward takes their place. The hinge is made for scores of about unit spread,
as ImageReward's: `weighted_sum` brings others there, and where `saturated` in metrics.jsonl is near 1 nothing is
learnt. Also without: the average of the weights.

Inferred: sampling on the way is stochastic, as in every method here; the released scheduler may be another.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import PositiveFloat, PositiveInt

from lpobench.plugin import TimestepRange
from methods.refl import ReFL


class IterComp(ReFL):
    """IterComp's alignment, arXiv:2410.07171: ReFL on late estimates, with any reward; its own are not public."""

    target: Literal["step", "estimate"] = "estimate"
    """what is scored: step, x_s at its own time; estimate, the clean x0 seen from x_t, as finished latents"""
    timestep_range: TimestepRange = (0, 226)
    """steps from a t inside, ends included, are trained on; the last ten of 40"""
    num_steps: PositiveInt | None = 1
    """of a rollout that are trained on, drawn anew for every round; none: all in the range"""
    hinge: float | None = 2.0
    """scores above are not raised further: the loss is relu(hinge - score); none: it is -score"""
    scale: PositiveFloat = 1e-3
    """of that loss"""

    default_reward: ClassVar[str] = "spm"
