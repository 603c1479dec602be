"""Stochastic samplers on SD3.5's grid (10 steps, shift 3): Flow-GRPO, DanceGRPO, FlowCPS as their releases
compute.
"""

import math

import pytest
import torch

from lpobench.sampling import RectifiedFlow, transition

SIGMAS = [1, 0.9601, 0.9133, 0.8577, 0.7904, 0.7073, 0.6022, 0.4649, 0.2780, 0.0089, 0]
STDS = {
    ("flow_sde", 0.7): [0.7000, 0.7430, 0.5362, 0.4459, 0.3918, 0.3528, 0.3191, 0.2820, 0.2254, 0.0063],
    ("dance_sde", 0.3): [0.0599, 0.0649, 0.0708, 0.0778, 0.0865, 0.0973, 0.1112, 0.1297, 0.1556, 0.0283],
    ("cps", 0.8): [0.9131, 0.8686, 0.8157, 0.7517, 0.6727, 0.5727, 0.4421, 0.2644, 0.0085, 0],
}


def steps(rule, eta, schedule=None, num_steps=10):
    """(sigma_t, sigma_s, alpha_s, c, std), one entry per step."""
    schedule = schedule or RectifiedFlow(3.0)
    grid = schedule.timesteps(num_steps)
    coefficients = [part.flatten() for part in transition(schedule, grid[:-1], grid[1:], rule, eta)]
    return schedule.levels(grid[:-1])[1], schedule.levels(grid[1:])[1], *coefficients


def test_sigma_grid():
    assert (RectifiedFlow(3.0).timesteps(10) / 1000).tolist() == pytest.approx(SIGMAS, abs=1e-4)


@pytest.mark.parametrize(("rule", "eta"), STDS)
def test_step_stds(rule, eta):
    assert steps(rule, eta)[-1].tolist() == pytest.approx(STDS[rule, eta], abs=1e-4)


@pytest.mark.parametrize(("rule", "eta"), [("flow_sde", 0.7), ("dance_sde", 0.3)])
def test_sde_mean_is_the_released_drift(rule, eta):
    """x (1 + g^2 / (2 sigma) dt) + v (1 + g^2 (1 - sigma) / (2 sigma)) dt, with g the step std over
    sqrt(-dt).
    """
    sigma, sigma_s, alpha_s, c, std = steps(rule, eta)
    dt = sigma_s - sigma
    g2 = std**2 / -dt
    x0, eps = torch.tensor(0.8), torch.tensor(-1.3)
    x, v = (1 - sigma) * x0 + sigma * eps, eps - x0
    drift = x * (1 + g2 / (2 * sigma) * dt) + v * (1 + g2 * (1 - sigma) / (2 * sigma)) * dt
    torch.testing.assert_close(alpha_s * x0 + c * eps, drift, atol=1e-5, rtol=1e-5)


def test_cps_mean_is_the_released_cosine():
    _, sigma_s, alpha_s, c, _ = steps("cps", 0.8)
    torch.testing.assert_close(alpha_s, 1 - sigma_s)
    torch.testing.assert_close(c, sigma_s * math.cos(0.8 * math.pi / 2))


@pytest.mark.parametrize("rule", ["ddim", "cps", "flow_sde", "dance_sde"])
def test_without_noise_every_rule_is_euler(rule):
    """x + v dt = (1 - sigma_s) x0 + sigma_s eps."""
    _, sigma_s, alpha_s, c, std = steps(rule, 0.0)
    assert (std == 0).all()
    torch.testing.assert_close(c, sigma_s, atol=1e-6, rtol=0)
    torch.testing.assert_close(alpha_s, 1 - sigma_s)


@pytest.mark.parametrize("shift", [1.0, 2.0, 3.0, 4.5, 6.0])
def test_ddim_rule_stays_valid_on_every_flow_grid(shift):
    """LPO eq. 15, taken literally, asks for more noise than sigma_s late on such grids; the affine form never
    does.
    """
    for num_steps in range(5, 51):
        for eta in (0.0, 0.1, 0.5, 0.9, 1.0):
            _, sigma_s, _, c, std = steps("ddim", eta, RectifiedFlow(shift), num_steps)
            assert (std <= sigma_s).all()
            torch.testing.assert_close(c**2 + std**2, sigma_s**2, atol=1e-6, rtol=1e-5)  # nan fails too


def test_literal_eq_15_does_not():
    """std / sigma_s = sqrt(1 - ((1 - sigma_t) / (1 - sigma_s))^2) / sigma_t passes 1 late in the run."""
    sigma, sigma_s, *_ = steps("ddim", 1.0, num_steps=20)
    ratio = (1 - ((1 - sigma) / (1 - sigma_s)) ** 2).sqrt() / sigma
    assert (ratio > 1).nonzero().flatten().tolist() == [15, 16, 17, 18, 19]
