"""Step-by-step Preference Optimization (SPO), arXiv:2406.04314: step-level DPO scored by a step-aware preference
model (SPM), which looks at the decoded x0 estimate of every candidate.

Numbers from the released SD 1.5 config: from the fifth of 20 steps on, t = 751, k = 4, margin 0.3. For SDXL the
released config has k = 2, margin 0.4 and three inner steps: `num_candidates = 2`, `min_gap = [0.4, 0.4]`,
`inner_steps = 3`. A candidate's estimate, made for the scorer, is reused by the step that follows it: a rollout
of 20 steps costs 21 denoiser calls, whatever k.

Differs from the released code: the last candidates are scored on their x0 estimate at t = 0, which is the 21st
call, where the code decodes them as they are.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import PositiveFloat

from lpobench.plugin import TimestepRange
from methods.step_dpo import Margins, StepDPO


class SPO(StepDPO):
    """Step-by-step Preference Optimization, arXiv:2406.04314: step-level DPO on a pixel reward's sure pairs."""

    beta: PositiveFloat = 10.0
    """DPO temperature, on log ratios averaged over latent elements"""
    min_gap: Margins = (0.3, 0.3)
    """smallest preference margin kept, the same at every step; released for SDXL: 0.4, 0.4"""
    threshold: Literal["std", "variance", "timestep", "constant"] = "constant"
    """what the margin grows with, linearly; constant needs two equal margins"""
    timestep_range: TimestepRange = (0, 751)
    """steps from a t inside, ends included, are scored and trained on; at 20 steps these are the last 16"""

    default_reward: ClassVar[str] = "spm"
