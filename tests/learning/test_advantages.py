import math

import pytest
import torch

from lpobench.learning import normalised, path_samples, standardised, with_advantages
from lpobench.sampling import paths

SCORES = torch.tensor([[0.0, 10.0], [2.0, 14.0]])


def test_group_is_the_standardised_score():
    """Each prompt's two scores are one std below and above their mean."""
    expected = torch.tensor([[-1.0, -1.0], [1.0, 1.0]])
    torch.testing.assert_close(normalised(SCORES, "group"), expected, atol=1e-5, rtol=0)
    assert torch.equal(normalised(SCORES, "group"), standardised(SCORES))


def test_batch_by_hand():
    """0, 2, 10, 14: mean 6.5, squares 42.25 + 20.25 + 12.25 + 56.25 = 131, std sqrt(131 / 4) = 5.7228."""
    expected = torch.tensor([[-6.5, 3.5], [-4.5, 7.5]]) / math.sqrt(131 / 4)
    torch.testing.assert_close(normalised(SCORES, "batch"), expected)


def test_mixed_by_hand():
    """Flow-GRPO: less the prompt's mean, 1 and 12, over the std of all scores."""
    expected = torch.tensor([[-1.0, -2.0], [1.0, 2.0]]) / math.sqrt(131 / 4)
    torch.testing.assert_close(normalised(SCORES, "mixed"), expected)


@pytest.mark.parametrize("over", ["group", "batch", "mixed"])
@pytest.mark.parametrize("k", [3, 24])
def test_equal_scores_have_no_advantage(over, k):
    """Exactly, though the float32 mean of equal numbers may be another number."""
    for score in 10 * torch.randn(100, generator=torch.Generator().manual_seed(0)):
        assert (normalised(score.expand(k, 5), over) == 0).all()


def test_a_prompt_without_a_preference_counts_in_the_std_of_all():
    """1, 1, 5, 9: mean 4, std sqrt((9 + 9 + 1 + 25) / 4) = sqrt(11). Its own advantages are 0."""
    scores = torch.tensor([[1.0, 5.0], [1.0, 9.0]])
    expected = torch.tensor([[0.0, -2.0], [0.0, 2.0]]) / math.sqrt(11)
    torch.testing.assert_close(normalised(scores, "mixed"), expected)


@pytest.mark.parametrize("over", ["group", "batch", "mixed"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_bad_score_drops_its_prompt_and_no_other(over, bad):
    with_bad = torch.cat([SCORES, torch.tensor([[7.0], [bad]])], 1)
    found = normalised(with_bad, over)
    assert torch.equal(found[:, :2], normalised(SCORES, over))
    assert not found[:, 2].isfinite().any()
    assert not normalised(torch.full((2, 3), bad), over).isfinite().any()


@pytest.mark.parametrize("over", ["group", "batch", "mixed"])
def test_rows_get_the_advantage_of_their_path(make_policy, over):
    """Three prompts, two paths: the second prompt has a bad score, the third no preference."""
    scores = torch.tensor([[0.0, math.nan, 5.0], [2.0, 1.0, 5.0]])
    with torch.no_grad():
        path = paths(make_policy(), ["1", "-1", "2"], torch.Generator().manual_seed(0), 2)
    rows = with_advantages(path_samples(path, scores, [2, 5]), 2, over)
    expected = normalised(scores, over)
    kept = [(k, b) for b in (0, 2) for k in (0, 1) if expected[k, b] != 0]
    assert len(kept) == (4 if over == "batch" else 2)
    assert rows.prompts == [path.prompts[b] for _, b in kept] * 2
    # as many rows per path: the statistics over rows are those over paths, but for the order of sums
    torch.testing.assert_close(rows.advantages.flatten(), torch.stack([expected[k, b] for k, b in kept] * 2))
    for row, (k, b) in enumerate(kept):
        assert torch.equal(rows.latents[row], path.latents[2, k, b])
