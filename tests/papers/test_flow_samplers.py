"""Stochastic samplers on SD3.5's grid (10 steps, shift 3): Flow-GRPO, DanceGRPO, FlowCPS as their releases
compute.
"""

import math

import pytest
import torch

from lpobench.plugin import UserError
from lpobench.sampling import RectifiedFlow, transition
from methods.step_dpo import StepDPO

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


SHIFTS = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
ETAS = [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0]
STEP_COUNTS = range(5, 51)


@pytest.mark.parametrize("shift", SHIFTS)
def test_ddim_rule_stays_valid_on_every_flow_grid(shift):
    """0 <= std <= sigma_s, and c^2 + std^2 = sigma_s^2; the last step, to sigma 0, is deterministic."""
    for num_steps in STEP_COUNTS:
        for eta in ETAS:
            _, sigma_s, _, c, std = steps("ddim", eta, RectifiedFlow(shift), num_steps)
            assert ((std >= 0) & (std <= sigma_s)).all()
            assert (c >= 0).all()
            torch.testing.assert_close(c**2 + std**2, sigma_s**2, atol=1e-6, rtol=1e-5)  # nan fails too
            assert std[-1] == 0
            assert ((std[:-1] > 0) == (eta > 0)).all()


def literal_eq_15(sigma, sigma_s):
    """std / (eta * sigma_s) of LPO's eq. 15 as printed, with 1 - sigma in the place of sqrt(alpha_bar)."""
    return (1 - ((1 - sigma) / (1 - sigma_s)) ** 2).sqrt() / sigma


def test_literal_eq_15_does_not():
    """std / sigma_s = sqrt(1 - ((1 - sigma_t) / (1 - sigma_s))^2) / sigma_t passes 1 late in the run."""
    sigma, sigma_s, *_ = steps("ddim", 1.0, num_steps=20)
    ratio = literal_eq_15(sigma, sigma_s)
    assert (ratio > 1).nonzero().flatten().tolist() == [15, 16, 17, 18, 19]
    assert ratio[15:19].tolist() == pytest.approx([1.11, 1.37, 1.90, 3.43], abs=0.01)


@pytest.mark.parametrize("shift", SHIFTS)
def test_literal_eq_15_is_invalid_on_every_grid_at_eta_1(shift):
    """Two steps or more before the last; at eta 1/2 still on some grids, where eta times the ratio passes 1."""
    halves = []
    for num_steps in STEP_COUNTS:
        sigma, sigma_s, *_ = steps("ddim", 1.0, RectifiedFlow(shift), num_steps)
        ratio = literal_eq_15(sigma, sigma_s)[:-1]
        assert (ratio > 1).sum() >= 2
        halves.append(bool((ratio / 2 > 1).any()))
    assert any(halves)


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("rule", ["cps", "flow_sde", "dance_sde"])
def test_the_other_rules_are_finite_on_every_step(rule, shift):
    for num_steps in STEP_COUNTS:
        for eta in ETAS:
            *_, alpha_s, c, std = steps(rule, eta, RectifiedFlow(shift), num_steps)
            assert torch.stack([alpha_s, c, std]).isfinite().all()
            trained = std[:-1] if rule == "cps" else std
            assert ((trained > 0) == (eta > 0)).all()
            assert rule != "cps" or std[-1] == 0


@pytest.mark.parametrize("shift", [1.0, 3.0, 6.0])
@pytest.mark.parametrize("num_steps", [5, 20, 50])
@pytest.mark.parametrize("rule", ["ddim", "cps", "flow_sde", "dance_sde"])
def test_steps_chosen_for_training_have_noise_and_a_finite_loss(
    make_policy, make_context, rule, num_steps, shift
):
    """ddim and cps end without noise: that step is neither scored nor trained. The two others end with some."""
    method = StepDPO(beta=500, min_gap=(0.0, 0.0))
    policy = make_policy(RectifiedFlow(shift), rule=rule, num_steps=num_steps, eta=0.7)
    ends_quietly = rule in ("ddim", "cps")
    assert (policy.stds[-1] == 0) == ends_quietly
    with torch.no_grad():
        rows = method.collect(make_context(policy))
    assert len(rows.t.unique()) == num_steps - ends_quietly
    assert (rows.s.min() > 0) == ends_quietly
    loss, logs = method.loss(make_context(policy), rows)
    (gradient,) = torch.autograd.grad(loss, policy.trained)
    assert loss.item() == pytest.approx(math.log(2), abs=1e-5)
    assert gradient.isfinite().all()
    assert all(value.isfinite() for value in logs.values())


@pytest.mark.parametrize("rule", ["ddim", "cps"])
def test_the_quiet_last_step_alone_is_refused(make_policy, make_context, rule):
    policy = make_policy(RectifiedFlow(3.0), rule=rule)
    method = StepDPO(beta=500, min_gap=(0.0, 0.0), timestep_range=(0, policy.timesteps[-2]))
    with pytest.raises(UserError, match="holds no stochastic sampling step"):
        method.collect(make_context(policy))
