import math

import pytest
import torch
from torch import nn

from lpobench.learning import clip_log_ratio, clipped_policy_loss, dpo_loss, gaussian_kl, log_ratio
from lpobench.sampling import StepDistribution


def step(*means, std=1.0):
    mean = torch.tensor(means).view(1, 1, 1, -1)
    return StepDistribution(mean, torch.full((1, 1, 1, 1), std))


def test_log_ratio_by_hand():
    """x = (1, 0), mean (0, 0) -> (1, 0), std 2: ((1 - 0) - (0 - 0)) / (2 * 4) over two elements = 1 / 16."""
    x = torch.tensor([1.0, 0.0]).view(1, 1, 1, 2)
    assert log_ratio(step(1.0, 0.0, std=2.0), step(0.0, 0.0, std=2.0), x).item() == pytest.approx(1 / 16)


def test_log_ratio_is_the_difference_of_log_densities():
    generator = torch.Generator().manual_seed(0)
    new, old, x = torch.randn(3, 5, 2, 3, 3, generator=generator, dtype=torch.float64)
    std = torch.full((5, 1, 1, 1), 0.3, dtype=torch.float64)
    new, old = StepDistribution(new, std), StepDistribution(old, std)
    torch.testing.assert_close(log_ratio(new, old, x), new.logprob(x) - old.logprob(x))


def test_equal_means_give_exactly_zero():
    x = torch.randn(1, 1, 1, 3)
    assert log_ratio(step(0.1, 0.2, 0.3, std=1e-3), step(0.1, 0.2, 0.3, std=1e-3), x).item() == 0


def test_clip_is_on_the_ratio():
    logs = torch.tensor([-1.0, 0.05, 1.0])
    assert clip_log_ratio(logs, 0.1).exp().tolist() == pytest.approx([0.9, math.exp(0.05), 1.1])


def test_clip_stops_the_gradient_in_both_directions():
    """Unlike PPO's: a winner whose ratio fell below 1 - eps is not pulled back either, as released."""
    value = torch.tensor([-1.0, 0.0, 1.0], requires_grad=True)
    clip_log_ratio(value, 0.1).sum().backward()
    assert value.grad.tolist() == [0, 1, 0]


def test_dpo_loss_by_hand():
    """beta 2, difference 0.5: -log sigmoid(1) = log(1 + 1/e) = 0.3133. No difference, or beta 0: log 2."""
    assert dpo_loss(torch.tensor([0.7]), torch.tensor([0.2]), 2.0).item() == pytest.approx(0.31326, abs=1e-5)
    assert dpo_loss(torch.tensor([0.3]), torch.tensor([0.3]), 500.0).item() == pytest.approx(math.log(2))
    assert dpo_loss(torch.tensor([0.7]), torch.tensor([0.2]), 0.0).item() == pytest.approx(math.log(2))


def test_dpo_loss_pulls_winner_up_and_loser_down():
    winner, loser = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
    dpo_loss(winner, loser, 500.0).backward()
    assert (winner.grad.item(), loser.grad.item()) == (-250, 250)  # beta * sigmoid(0)


def test_dpo_loss_is_finite_at_the_widest_clip():
    """beta 5000, the largest in the paper's ablation: the logit is -1003 where log(sigmoid) would be -inf."""
    low, high = (torch.tensor([math.log(r)]) for r in (0.9, 1.1))
    assert dpo_loss(low, high, 5000.0).item() == pytest.approx(5000 * math.log(1.1 / 0.9), rel=1e-5)


def test_clipped_policy_loss_by_hand():
    """Advantage 1: min(r, 1.2) at r = 1.5 -> -1.2, at 0.5 -> -0.5. Advantage -1: max(r, 0.8): 1.5 and 0.8."""
    ratio, advantage = torch.tensor([1.5, 0.5, 1.5, 0.5]), torch.tensor([1.0, 1.0, -1.0, -1.0])
    losses = [clipped_policy_loss(ratio[i : i + 1], advantage[i : i + 1], 0.2).item() for i in range(4)]
    assert losses == pytest.approx([-1.2, -0.5, 1.5, 0.8])
    assert clipped_policy_loss(ratio, advantage, 0.2).item() == pytest.approx(0.15)


def test_kl_by_hand():
    """Means differ by 1 and 3 at std 2: (1 + 9) / 2 / (2 * 4) = 0.625 nats per element."""
    kl = gaussian_kl(step(1.0, 3.0, std=2.0), step(0.0, 0.0, std=2.0))
    assert kl.item() == pytest.approx(0.625)
    assert gaussian_kl(step(1.0), step(1.0)).item() == 0


def test_kl_is_the_expected_log_ratio():
    generator = torch.Generator().manual_seed(0)
    new, old = step(0.3, -0.2), step(0.0, 0.4)
    drawn = new.sample(50_000, generator)
    expected = torch.stack([log_ratio(new, old, x) for x in drawn.view(-1, 1, 1, 1, 2)[:5000]]).mean()
    assert expected.item() == pytest.approx(gaussian_kl(new, old).item(), abs=0.02)


@pytest.mark.parametrize("clip", [None, 0.1, 1e-3])
def test_one_pass_per_pair_has_the_gradient_of_two(clip):
    """LPO and SPO run the denoiser on winner and loser apart, with the same input: one run gives the same
    gradient.

    Their way: two forward passes, ratios of exponentiated log densities, clamped.
    """
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Tanh(), nn.Conv2d(4, 2, 3)).double()
    latents, winner, loser, reference = torch.randn(4, 6, 2, 8, 8, dtype=torch.float64)
    winner, loser, reference = (x[:, :, :4, :4] * 0.3 for x in (winner, loser, reference))
    std = torch.full((6, 1, 1, 1), 0.4, dtype=torch.float64)
    ref = StepDistribution(reference, std)

    def run():
        return StepDistribution(reference + 0.3 * network(latents), std)

    def gradient(loss):
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(network.parameters()))])

    def released(x):
        ratio = (run().logprob(x) - ref.logprob(x)).exp()
        return (ratio if clip is None else ratio.clamp(1 - clip, 1 + clip)).log()

    new = run()
    once = [log_ratio(new, ref, x) for x in (winner, loser)]
    if clip is not None:
        once = [clip_log_ratio(value, clip) for value in once]
    two = dpo_loss(released(winner), released(loser), 50.0)
    one = dpo_loss(*once, 50.0)
    torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(gradient(one), gradient(two), rtol=1e-9, atol=1e-12)
