"""Flow-GRPO, arXiv:2505.05470: GRPO on the paths of a flow model sampled with noise, in few steps.

Numbers from the released code for SD3.5. It samples 10 steps (`sampling.num_steps`, rule `flow_sde` at eta 0.7,
guidance 4.5) and evaluates in 40 (`eval.num_steps`): the denoising reduction. Learning rate 3e-4, two updates a round
of 48 prompts. Also runs on SD's schedules, by the rule `ddim`.

Its relatives are settings: DanceGRPO (arXiv:2505.07818) is rule `dance_sde` at eta 0.3, num_paths 12, normalisation
"group", kl_beta 0, same_start, trained_share 0.6. MixGRPO (arXiv:2507.21802) is window 4 of 25 steps, num_paths 12,
normalisation "group", kl_beta 0, same_start. Flow-GRPO-Fast is window 1 to 3 with window_schedule "random" and a
timestep_range of the first half, clip 1e-5, kl_beta 0.

Under the rules `ddim` and `cps` the step before the last has almost no noise on flow models, so that its log ratios
drown all others: at 10 steps, a timestep_range from 300 leaves it out. (The released code for cps leaves the variance
out of the density instead.)

Differs from the released code: KL is that of the step, as in the paper. The code leaves the step's length out of
the variance, so that its weight of 0.04 (0.01 for PickScore) is 0.004 here, at 10 steps of 1/10 on average. The std
that advantages are over gets 1e-6 added, not 1e-4. GRPO-Guard's ratio is not implemented.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat

from lpobench.plugin import TimestepRange
from methods.path_gradient import PathGradient


class FlowGRPO(PathGradient):
    """Flow-GRPO, arXiv:2505.05470: group-relative policy gradient on whole paths; settings make it MixGRPO."""

    num_paths: Annotated[int, Field(ge=2)] = 24
    """k, trajectories per prompt"""
    normalisation: Literal["group", "batch", "mixed"] = "mixed"
    """mean and std that make scores advantages: the prompt's, the round's, or its mean and the round's std"""
    kl_beta: NonNegativeFloat = 0.004
    """weight of KL(policy || reference) of a step, nats per latent element; 0 spares the reference's pass"""
    timestep_range: TimestepRange = (10, 1000)
    """steps from a t inside, ends included, may be trained on; the last step, from 8.9 on SD3's grids, is not"""
