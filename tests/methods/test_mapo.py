import math

import pytest
import torch

from methods.mapo import MaPO, image_score


def collected(method, context):
    with torch.no_grad():
        return method.collect(context)


@pytest.mark.parametrize(
    ("error", "score"), [(1e-8, 1.0), (0.01, 0.9975), (0.1, 0.9752), (0.5, 0.8802), (1.0, 0.7708)]
)
def test_scores_of_the_sheet(error, score):
    assert image_score(torch.tensor([error]), 0.5).item() == pytest.approx(score, abs=6e-5)


def test_a_tiny_error_scores_1_and_its_slope_is_minus_half_of_s():
    errors = torch.tensor([1e-8, 1e-6, 1e-4], requires_grad=True)
    score = image_score(errors, 0.5)
    torch.testing.assert_close(score, torch.ones(3), rtol=0, atol=1e-4)
    assert score[0].item() == 1
    gradient = torch.autograd.grad(score.sum(), errors)[0]
    assert gradient[2].item() == pytest.approx(-0.25, abs=0.01)


@pytest.mark.parametrize(("error", "score"), [(0.0, 1.0), (1e4, 0.0)])
def test_neither_end_spoils_the_gradient(error, score):
    errors = torch.tensor([error], requires_grad=True)
    value = image_score(errors, 0.5)
    assert value.item() == score
    assert torch.autograd.grad(value, errors)[0].isfinite().all()


def test_scores_fall_with_the_error():
    scores = image_score(torch.linspace(0.01, 20, 200), 0.5)
    assert (scores.diff() < 0).all()


def test_equal_errors_leave_the_winners_error_and_log_2():
    errors = torch.tensor([0.2, 0.4])
    loss, logs = MaPO().objective(errors, errors)
    assert loss.item() == pytest.approx(0.3 + 0.1 * math.log(2), abs=1e-6)
    assert logs["margin"].item() == 0
    assert logs["accuracy"].item() == 0


def test_loss_by_hand():
    """Errors 0.1 and 0.11: scores 0.975208 and 0.972752, a margin of 2.4564 at T 1000."""
    x, y = 0.05, 0.055
    margin = 1000 * (x / math.expm1(x) - y / math.expm1(y))
    loss, logs = MaPO().objective(torch.tensor([0.1]), torch.tensor([0.11]))
    assert margin == pytest.approx(2.4564, abs=1e-3)
    assert logs["margin"].item() == pytest.approx(margin, abs=1e-3)
    assert loss.item() == pytest.approx(0.1 + 0.1 * math.log1p(math.exp(-margin)), abs=1e-5)


def test_near_no_error_the_margin_is_dpos_at_beta_500():
    """-log sigmoid(-250 (L_w - L_l)), whose derivative by L_w at equal errors is 125."""
    winner = torch.tensor([1e-3], dtype=torch.float64, requires_grad=True)
    loser = torch.tensor([1e-3], dtype=torch.float64)
    loss, _ = MaPO(beta=1.0).objective(winner, loser)
    assert torch.autograd.grad(loss, winner)[0].item() == pytest.approx(1 + 125, rel=1e-3)


def test_one_pass_and_no_reference(make_policy, make_context, count_forwards):
    policy = make_policy()
    rows = collected(MaPO(), make_context(policy))
    forwards = count_forwards(policy)
    policy.reference = None
    MaPO().loss(make_context(policy), rows)
    assert forwards == [8]
    assert MaPO().denoiser_calls(policy) == (0, 1)


def test_logs_are_the_errors(make_policy, make_context):
    policy = make_policy()
    context = make_context(policy)
    loss, logs = MaPO(beta=1e-12).loss(context, collected(MaPO(), context))
    assert logs["winner_error"].item() == pytest.approx(loss.item(), rel=1e-6)
    assert logs["loser_error"].item() != logs["winner_error"].item()
