import math

import pytest
import torch

from lpobench.learning import NonFiniteScore, best_and_worst, group_advantages, min_gaps, sure_pairs
from lpobench.sampling import forks


@pytest.fixture
def fork(make_policy):
    """The first step of two prompts with three candidates each."""
    with torch.no_grad():
        return next(forks(make_policy(), ["1", "-1"], 3, torch.Generator().manual_seed(0)))


def test_best_and_worst_by_hand(fork):
    """Margins tanh(2 / 2) = 0.762 and tanh(0.2 / 2) = 0.0997: only the first exceeds 0.5."""
    ranked = best_and_worst(fork, torch.tensor([[0.0, 1.0], [2.0, 1.2], [1.0, 1.1]]), 0.5)
    assert ranked.sure.tolist() == [True, False]
    assert torch.equal(ranked.pairs.winner, torch.stack([fork.candidates[1, 0], fork.candidates[1, 1]]))
    assert torch.equal(ranked.pairs.loser, torch.stack([fork.candidates[0, 0], fork.candidates[0, 1]]))
    pairs = sure_pairs([ranked])
    assert (len(pairs), pairs.prompts, pairs.t.tolist()) == (1, ["1"], [951])


def test_margin_is_the_two_way_softmax(fork):
    """p_best - p_worst of softmax((3, 1)) = 0.8808 - 0.1192 = 0.7616, on either side of the threshold."""
    scores = torch.tensor([[3.0, 3.0], [1.0, 1.0], [2.0, 2.0]])
    assert best_and_worst(fork, scores, 0.7615).sure.all()
    assert not best_and_worst(fork, scores, 0.7617).sure.any()


def test_equal_scores_are_no_preference(fork):
    assert not best_and_worst(fork, torch.ones(3, 2), 0.0).sure.any()


def test_no_sure_pair_is_no_row(fork):
    pairs = sure_pairs([best_and_worst(fork, torch.ones(3, 2), 0.5)] * 2)
    assert (len(pairs), pairs.prompts) == (0, [])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_non_finite_scores_stop_the_run(fork, bad):
    scores = torch.zeros(3, 2)
    scores[1, 1] = bad
    ranked = [best_and_worst(fork, torch.zeros(3, 2), 0.5), best_and_worst(fork, scores, 0.5)]
    with pytest.raises(NonFiniteScore, match="nan or inf"):
        sure_pairs(ranked)


TIMESTEPS, STDS = (900.0, 500.0, 100.0, 0.0), (0.4, 0.3, 0.2)


@pytest.mark.parametrize(
    ("strategy", "middle"),
    [
        ("std", 0.5),  # (0.3 - 0.2) / (0.4 - 0.2)
        ("variance", 5 / 12),  # (0.09 - 0.04) / (0.16 - 0.04)
        ("timestep", 0.5),  # (500 - 100) / (900 - 100)
    ],
)
def test_thresholds_by_hand(strategy, middle):
    gaps = min_gaps(strategy, (0.3, 0.6), TIMESTEPS, STDS)
    assert gaps == pytest.approx([0.6, 0.3 + 0.3 * middle, 0.3])


def test_constant_threshold():
    assert min_gaps("constant", (0.4, 0.4), TIMESTEPS, STDS) == [0.4, 0.4, 0.4]


def test_a_deterministic_step_is_never_sure_and_sets_no_range():
    gaps = min_gaps("std", (0.3, 0.6), TIMESTEPS, (0.4, 0.3, 0.0))
    assert gaps == pytest.approx([0.6, 0.3, math.inf])


def test_a_single_step_has_the_lower_bound():
    assert min_gaps("std", (0.3, 0.6), (900.0, 0.0), (0.4,)) == [0.3]


def test_group_advantages_by_hand(fork):
    """Scores 0, 3, 6 have mean 3 and population std sqrt(6): advantages -1.2247, 0, 1.2247. Equal scores give
    0.
    """
    samples = group_advantages(fork, torch.tensor([[0.0, 5.0], [3.0, 5.0], [6.0, 5.0]]))
    assert samples.advantage.tolist() == pytest.approx([-1.2247, 0, 1.2247, 0, 0, 0], abs=1e-4)
    assert torch.equal(samples.sample[:3], fork.candidates[:, 0])
    assert torch.equal(samples.logprob.view(2, 3), fork.logprobs.T)
    assert samples.prompts == ["1"] * 3 + ["-1"] * 3
    assert torch.equal(samples.latents[2:4], fork.latents)


def test_a_group_of_one_has_no_advantage(make_policy):
    with torch.no_grad():
        fork = next(forks(make_policy(), ["1", "-1"], 1, torch.Generator().manual_seed(0)))
    assert group_advantages(fork, torch.ones(1, 2)).advantage.tolist() == [0, 0]
