import math

import pytest
import torch

from lpobench.sampling import StepDistribution, VariancePreserving, transition


def test_logprob_by_hand():
    """Two elements at 1 and 3, mean 0, std 2: squares (1 + 9) / 8 / 2 = 0.625 on average, plus log 2 + log(2
    pi) / 2.
    """
    step = StepDistribution(torch.zeros(1, 1, 1, 2), torch.full((1, 1, 1, 1), 2.0))
    expected = -0.625 - math.log(2) - 0.5 * math.log(2 * math.pi)
    assert step.logprob(torch.tensor([1.0, 3.0]).view(1, 1, 1, 2)).item() == pytest.approx(expected)


def test_logprob_does_not_depend_on_the_number_of_elements():
    """It is a mean: the same element repeated 100 times has the same log density."""
    std = torch.ones(1, 1, 1, 1)
    one = StepDistribution(torch.zeros(1, 1, 1, 1), std).logprob(torch.ones(1, 1, 1, 1))
    many = StepDistribution(torch.zeros(1, 1, 10, 10), std).logprob(torch.ones(1, 1, 10, 10))
    torch.testing.assert_close(one, many)


def test_samples_have_the_distribution():
    step = StepDistribution(torch.full((1, 1, 2, 2), 3.0), torch.full((1, 1, 1, 1), 0.5))
    drawn = step.sample(20_000, torch.Generator().manual_seed(0))
    assert drawn.shape == (20_000, 1, 1, 2, 2)
    assert drawn.mean().item() == pytest.approx(3, abs=0.01)
    assert drawn.std().item() == pytest.approx(0.5, abs=0.01)


def test_without_noise_a_sample_is_the_mean():
    step = StepDistribution(torch.randn(2, 1, 3, 3), torch.zeros(2, 1, 1, 1))
    assert torch.equal(step.sample(2), torch.stack([step.mean, step.mean]))


def test_ddim_by_hand():
    """alpha_bar 0.36 -> 0.64: r = 0.6 * 0.6 / (0.8 * 0.8) = 0.5625; std = 0.6 sqrt(1 - r^2), c = 0.6 r at eta
    1.
    """
    schedule = VariancePreserving(torch.tensor([0.64, 0.36], dtype=torch.float64))
    alpha_s, c, std = transition(schedule, torch.tensor([1.0]), torch.tensor([0.0]), "ddim", 1.0)
    assert alpha_s.item() == pytest.approx(0.8)
    assert c.item() == pytest.approx(0.3375)
    assert std.item() == pytest.approx(0.6 * math.sqrt(1 - 0.5625**2))


@pytest.mark.parametrize("rule", ["ddim", "cps"])
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_marginal_preserving_rules_keep_the_variance(schedule, rule, eta):
    """c^2 + std^2 = sigma_s^2: noise is replaced, never added."""
    grid = schedule.timesteps(20)
    _, c, std = transition(schedule, grid[:-1], grid[1:], rule, eta)
    sigma_s = schedule.levels(grid[1:])[1]
    torch.testing.assert_close((c**2 + std**2).flatten(), sigma_s**2, atol=1e-6, rtol=1e-5)


def test_a_step_nowhere_is_no_step(schedule):
    t = torch.tensor([500.0])
    alpha_s, c, std = transition(schedule, t, t, "ddim", 1.0)
    alpha, sigma = schedule.levels(t)
    assert (alpha_s.item(), c.item(), std.item()) == (alpha.item(), sigma.item(), 0)
