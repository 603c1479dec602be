"""Latent Preference Optimization (LPO), arXiv:2502.01051: step-level DPO scored by a latent reward model.

Numbers from the released SD 1.5 config, including its habit of scoring x_s at time t. The reward it is meant
for is `lrm`.
"""

from __future__ import annotations

from pydantic import PositiveFloat

from methods.step_dpo import Margins, ScoreAt, StepDPO


class LPO(StepDPO):
    """Latent Preference Optimization, arXiv:2502.01051: step-level DPO on a latent reward's sure pairs."""

    beta: PositiveFloat = 500.0
    """DPO temperature, on log ratios averaged over latent elements (0.0305 on sums, at SD 1.5's size)"""
    min_gap: Margins = (0.35, 0.5)
    """smallest preference margin kept, at the least and the most noisy step; released for SDXL: 0.45, 0.6"""
    score_at: ScoreAt = "t"
    """timestep the reward is told: "t" as in LPO's released code, "s" the candidates' own, "0" the paper's ablation"""
