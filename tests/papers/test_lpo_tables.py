"""LPO, arXiv:2502.01051: the tables hard-coded in the released code, which hold for SD betas, 20 steps and
eta 1.
"""

import pytest
import torch

from lpobench.learning import min_gaps
from lpobench.sampling import VariancePreserving, transition
from methods.lpo import LPO

TIMESTEPS = [float(t) for t in range(951, 0, -50)]

# compare_funcs.py, from t = 1 to t = 951
STDS = [
    0.0206, 0.0406, 0.1673, 0.2144, 0.2509, 0.2836, 0.3144, 0.3442, 0.3732, 0.4016,
    0.4293, 0.4565, 0.4829, 0.5087, 0.5336, 0.5576, 0.5807, 0.6029, 0.6241, 0.6444,
]  # fmt: skip

# thresholds of eq. 12 at (0.35, 0.5), the released SD 1.5 config, and at (0.45, 0.6), the SDXL one
THRESHOLDS = {
    1: (0.3500, 0.4500), 51: (0.3548, 0.4548), 101: (0.3853, 0.4853), 151: (0.3966, 0.4966),
    201: (0.4054, 0.5054), 251: (0.4132, 0.5132), 351: (0.4278, 0.5278), 451: (0.4416, 0.5416),
    551: (0.4548, 0.5548), 651: (0.4674, 0.5674), 751: (0.4791, 0.5791), 851: (0.4900, 0.5900),
    951: (0.5000, 0.6000),
}  # fmt: skip

# d mean / d eps of the step, at the same timesteps: "c_t" of the released sampler
SLOPES = {1: -0.0207, 51: -0.2205, 101: -0.1909, 251: -0.1965, 501: None, 551: -0.2899, 951: -0.5496}


def test_the_grid_is_the_released_one():
    assert VariancePreserving.scaled_linear().timesteps(20).tolist() == [*TIMESTEPS, 0.0]


def test_all_twenty_released_stds(make_policy):
    assert make_policy().stds == pytest.approx(STDS[::-1], abs=1e-4)
    assert make_policy().std_range() == pytest.approx((0.0206, 0.6444), abs=1e-4)


@pytest.mark.parametrize(("column", "bounds"), [(0, (0.35, 0.5)), (1, (0.45, 0.6))])
def test_released_thresholds(make_policy, column, bounds):
    policy = make_policy()
    gaps = dict(zip(TIMESTEPS, min_gaps("std", bounds, policy.timesteps, policy.stds), strict=True))
    for t, row in THRESHOLDS.items():
        assert gaps[t] == pytest.approx(row[column], abs=1e-4)


def test_mean_moves_with_eps_as_in_the_released_sampler():
    """x0 = (x - sigma_t eps) / alpha_t, so d mean / d eps = c - alpha_s sigma_t / alpha_t."""
    schedule = VariancePreserving.scaled_linear()
    grid = schedule.timesteps(20)
    alpha_s, c, _ = transition(schedule, grid[:-1], grid[1:], "ddim", 1.0)
    alpha_t, sigma_t = schedule.levels(grid[:-1])
    slopes = dict(zip(TIMESTEPS, (c.flatten() - alpha_s.flatten() * sigma_t / alpha_t).tolist(), strict=True))
    for t, slope in SLOPES.items():
        assert slope is None or slopes[t] == pytest.approx(slope, abs=1e-4)


def test_last_step_is_stochastic_as_released():
    """t' is clamped to 0, where alpha_bar is 0.99915; stock DDIM with set_alpha_to_one ends without noise."""
    alpha, _ = VariancePreserving.scaled_linear().levels(torch.tensor([0.0]))
    assert (alpha**2).item() == pytest.approx(0.99915, abs=1e-5)


def test_preset_is_the_released_sd15_config():
    lpo = LPO()
    assert (lpo.beta, lpo.ratio_clip, lpo.min_gap, lpo.num_candidates) == (500, 0.1, (0.35, 0.5), 4)
    assert (lpo.threshold, lpo.score_at, lpo.timestep_range) == ("std", "t", (0, 1000))
