import math

import pytest
import torch

from lpobench.learning import (
    best_and_worst,
    finite,
    fork_samples,
    min_gaps,
    path_samples,
    standardised,
    sure_pairs,
    worth_training,
)
from lpobench.sampling import forks, paths


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


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_prompt_with_a_score_that_is_not_finite_is_left_out(fork, bad):
    scores = torch.tensor([[0.0, 0.0], [5.0, bad], [9.0, 1.0]])
    assert finite(scores).tolist() == [True, False]
    assert sure_pairs([best_and_worst(fork, scores, 0.5)]).prompts == ["1"]
    assert worth_training(fork_samples(fork, standardised(scores))).prompts == ["1"]


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


def test_advantages_by_hand(fork):
    """Scores 0, 3, 6 have mean 3 and population std sqrt(6): -1.2247, 0, 1.2247. Equal scores give 0, and no row."""
    scores = torch.tensor([[0.0, 5.0], [3.0, 5.0], [6.0, 5.0]])
    samples = fork_samples(fork, standardised(scores))
    assert samples.advantages[0].tolist() == pytest.approx([-1.2247, 0, 1.2247], abs=1e-4)
    assert samples.advantages[1].tolist() == [0, 0, 0]
    assert torch.equal(samples.samples[0], fork.candidates[:, 0])
    assert torch.equal(samples.logprobs, fork.logprobs.T)
    assert worth_training(samples).prompts == ["1"]


@pytest.mark.parametrize("k", [3, 7, 24, 32])
def test_equal_scores_give_exactly_zero(k):
    """The float32 mean of 24 equal numbers is often another number: the difference, standardised, was up to 7."""
    scores = 10 * torch.randn(1000, generator=torch.Generator().manual_seed(0))
    assert (standardised(scores.expand(k, -1)) == 0).all()


def test_a_group_of_one_has_no_advantage():
    assert standardised(torch.tensor([[3.0, -1.0]])).tolist() == [[0, 0]]


def test_path_samples_are_the_steps_of_every_path(make_policy):
    """Steps 2 and 5 of three paths of two prompts: 12 rows, each with the advantage of its path. A prompt's
    paths follow each other: rows of shards, one behind the other, are in the order of one shard.
    """
    policy = make_policy()
    with torch.no_grad():
        path = paths(policy, ["1", "-1"], torch.Generator().manual_seed(0), 3)
    advantages = torch.arange(6.0).view(3, 2)
    rows = path_samples(path, advantages, [2, 5])
    assert rows.t.tolist() == [policy.timesteps[2]] * 6 + [policy.timesteps[5]] * 6
    assert rows.s.tolist() == [policy.timesteps[3]] * 6 + [policy.timesteps[6]] * 6
    assert rows.advantages.flatten().tolist() == [0, 2, 4, 1, 3, 5] * 2
    assert rows.prompts == ["1", "1", "1", "-1", "-1", "-1"] * 2
    for row, (step, k, b) in enumerate((step, k, b) for step in (2, 5) for b in range(2) for k in range(3)):
        assert torch.equal(rows.latents[row], path.latents[step, k, b])
        assert torch.equal(rows.samples[row, 0], path.latents[step + 1, k, b])
        assert rows.logprobs[row, 0] == path.logprobs[step, k, b]
