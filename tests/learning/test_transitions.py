import math

import pytest
import torch

from lpobench.learning import clip_log_ratio, clipped_dpo, dpo_loss, path_pairs, transition_dpo
from lpobench.sampling import paths


@pytest.fixture
def policy(make_policy):
    return make_policy(dtype=torch.float64)


@pytest.fixture
def path(policy):
    """Three paths of three prompts."""
    with torch.no_grad():
        return paths(policy, ["1", "-1", "2"], torch.Generator().manual_seed(0), 3)


def test_best_and_worst_path_step_by_step(policy, path):
    """Prompt "1": path 2 beats path 0. "-1": a tie of all. "2": path 0 beats path 1."""
    scores = torch.tensor([[0.0, 4.0, 9.0], [1.0, 4.0, 2.0], [3.0, 4.0, 5.0]])
    rows = path_pairs(path, scores, [4, 7])
    assert rows.prompts == ["1", "2"] * 2
    assert rows.t.tolist() == [policy.timesteps[4]] * 2 + [policy.timesteps[7]] * 2
    assert rows.s.tolist() == [policy.timesteps[5]] * 2 + [policy.timesteps[8]] * 2
    places = [(step, *pair) for step in (4, 7) for pair in ((0, 2, 0), (2, 0, 1))]
    for row, (step, prompt, best, worst) in enumerate(places):
        assert torch.equal(rows.winner_latents[row], path.latents[step, best, prompt])
        assert torch.equal(rows.winner[row], path.latents[step + 1, best, prompt])
        assert torch.equal(rows.loser_latents[row], path.latents[step, worst, prompt])
        assert torch.equal(rows.loser[row], path.latents[step + 1, worst, prompt])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_bad_scores_and_ties_give_no_rows(path, bad):
    scores = torch.tensor([[0.0, 4.0, 9.0], [1.0, 4.0, bad], [3.0, 4.0, 5.0]])
    assert path_pairs(path, scores, [4]).prompts == ["1"]
    assert len(path_pairs(path, torch.ones(3, 3), [4, 7])) == 0
    assert len(path_pairs(path, torch.full((3, 3), bad), [4])) == 0


def test_clipped_dpo_by_hand():
    """Ratios 1.05 and 0.8, beta 2: clipped at 0.1 to 1.05 and 0.9. -log sigmoid(2 log(1.05 / 0.9)) = 0.5509,
    unclipped -log sigmoid(2 log(1.05 / 0.8)) = 0.4577.
    """
    winner, loser = torch.tensor([1.05]).log(), torch.tensor([0.8]).log()
    loss, logs = clipped_dpo(winner, loser, 2.0, 0.1)
    assert loss.item() == pytest.approx(math.log(1 + (0.9 / 1.05) ** 2), abs=1e-6)
    assert loss.item() == pytest.approx(0.5509, abs=1e-4)
    assert logs["accuracy"].item() == logs["clipfrac"].item() == 1
    assert logs["margin"].item() == pytest.approx(2 * math.log(1.05 / 0.8))
    assert (logs["ratio_winner"].item(), logs["ratio_loser"].item()) == pytest.approx((1.05, 0.8))
    loss, logs = clipped_dpo(winner, loser, 2.0, None)
    assert loss.item() == pytest.approx(0.4577, abs=1e-4)
    assert "clipfrac" not in logs


@pytest.mark.parametrize("clip", [None, 0.1, 1e-4])
def test_gradient_of_the_released_four_passes(policy, path, count_forwards, clip):
    """Policy and reference run apart on winner and loser, log densities subtracted: here in two passes."""
    rows = path_pairs(path, torch.arange(9.0).view(3, 3), [2, 9, 19])
    policy.trained[0].data.fill_(0.01)

    def released(latents, x):
        new = policy.step(latents, rows.t, rows.s, rows.prompts)
        with policy.reference() as reference:
            ref = reference.step(latents, rows.t, rows.s, rows.prompts)
        ratio = new.logprob(x) - ref.logprob(x)
        return ratio if clip is None else clip_log_ratio(ratio, clip)

    four = dpo_loss(
        released(rows.winner_latents, rows.winner), released(rows.loser_latents, rows.loser), 500.0
    )
    forwards = count_forwards(policy)
    two, _ = transition_dpo(policy, rows, 500.0, clip)
    assert forwards == [18, 18]
    torch.testing.assert_close(two, four, rtol=1e-9, atol=1e-12)
    gradients = [torch.autograd.grad(loss, policy.trained)[0] for loss in (two, four)]
    torch.testing.assert_close(*gradients, rtol=1e-7, atol=1e-9)
