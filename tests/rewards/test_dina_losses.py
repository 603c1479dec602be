"""DiNa-LRM's losses against the published numbers and their limits."""

import math

import pytest
import torch

from rewards.dina.losses import comparison_std, pair_loss

SIGMAS = (0.0, 0.1, 0.4, 0.7, 1.0)


def loss(margin: float, sigma: float = 0.0, label_0: float = 1.0, kind: str = "thurstone") -> float:
    level, label = torch.tensor([sigma]), torch.tensor([label_0])
    scores = torch.tensor([[margin], [0.0]]) / comparison_std(kind, level)
    return pair_loss(kind, *scores, label, torch.ones(1)).item()


def test_a_margin_is_measured_in_the_noise_levels_std():
    """sqrt(4 sigma^2 + 0.1 + 1e-6): the published denominators."""
    stds = comparison_std("thurstone", torch.tensor(SIGMAS))
    assert stds.tolist() == pytest.approx([0.316, 0.374, 0.860, 1.435, 2.025], abs=6e-4)
    assert stds[2].item() == pytest.approx(math.sqrt(0.64 + 0.1 + 1e-6))
    assert comparison_std("thurstone-constant", torch.tensor(SIGMAS)).tolist() == pytest.approx([1] * 5)
    assert comparison_std("bt", torch.tensor(SIGMAS)).tolist() == [1] * 5


@pytest.mark.parametrize(
    ("margin", "expected"),
    [
        (0.0, [0.2929] * 5),
        (0.5, [0.0289, 0.0464, 0.1518, 0.2024, 0.2270]),
        (1.0, [0.0004, 0.0019, 0.0633, 0.1299, 0.1698]),
    ],
)
def test_the_published_table(margin, expected):
    assert [loss(margin, sigma) for sigma in SIGMAS] == pytest.approx(expected, abs=6e-5)


def test_limits_of_the_fidelity_loss():
    """Certain and right: 1 - sqrt(1 + 1e-6); certain and wrong: 1 - sqrt(1e-6); and the labels are symmetric."""
    assert loss(50.0) == pytest.approx(-5e-7, abs=1e-7)
    assert loss(-50.0) == pytest.approx(1 - 1e-3)
    assert loss(0.3, 0.4, label_0=0.0) == pytest.approx(loss(-0.3, 0.4, label_0=1.0))


def test_a_tie_costs_nothing_at_equal_scores_only():
    """1 - 2 sqrt(0.5 (0.5 + 1e-6)), that is -1e-6; at a margin of one std Phi(1) = 0.8413: 1 - sqrt(0.4207) -
    sqrt(0.0793) = 0.0698."""
    assert loss(0.0, label_0=0.5) == pytest.approx(0, abs=2e-6)
    assert loss(1.0, label_0=0.5, kind="thurstone-constant") == pytest.approx(0.0698, abs=1e-4)
    assert loss(-1.0, label_0=0.5, kind="thurstone-constant") == pytest.approx(0.0698, abs=1e-4)


def test_constant_thurstone_does_not_know_the_noise():
    """1 - sqrt(Phi(1)) = 1 - sqrt(0.841345) = 0.0828 at every level."""
    assert [loss(1.0, sigma, kind="thurstone-constant") for sigma in SIGMAS] == pytest.approx(
        [0.08275] * 5, abs=1e-4
    )


def test_bradley_terry():
    """-log sigmoid(2) = 0.1269; with a margin of 1 -log sigmoid(1) = 0.3133, from either side."""
    assert loss(0.0, kind="bt") == pytest.approx(math.log(2))
    assert loss(2.0, 0.7, kind="bt") == pytest.approx(0.12693, abs=1e-5)
    assert loss(2.0, kind="bt-margin") == pytest.approx(0.31326, abs=1e-5)
    assert loss(-2.0, label_0=0.0, kind="bt-margin") == pytest.approx(0.31326, abs=1e-5)


@pytest.mark.parametrize("kind", ["thurstone", "thurstone-constant", "bt", "bt-margin"])
@pytest.mark.parametrize("label_0", [0.0, 0.5, 1.0])
def test_gradients_are_finite_and_raise_the_winner(kind, label_0):
    """Even where Phi is 0 or 1 in float32."""
    for margin in (-30.0, 0.0, 30.0):
        score = torch.tensor([margin], requires_grad=True)
        pair_loss(kind, score, torch.zeros(1), torch.tensor([label_0]), torch.ones(1)).backward()
        assert score.grad.isfinite().all()
    score = torch.zeros(1, requires_grad=True)
    pair_loss(kind, score, torch.zeros(1), torch.tensor([label_0]), torch.ones(1)).backward()
    assert score.grad.sign().item() == (0.5 - label_0) * 2


def test_losses_are_summed_with_their_weights():
    """0.2929 at margin 0 and 0.0828 at 1, weights 3/4 and 1/4."""
    scores, weight = torch.tensor([0.0, 1.0]), torch.tensor([0.75, 0.25])
    value = pair_loss("thurstone-constant", scores, torch.zeros(2), torch.ones(2), weight)
    assert value.item() == pytest.approx(0.75 * 0.29289 + 0.25 * 0.08275, abs=1e-4)
