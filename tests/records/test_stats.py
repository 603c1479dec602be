"""Paired statistics of two variants: numbers derived by hand."""

import numpy as np
import pytest
from scipy import stats as scipy_stats

from lpobench.records.stats import interval, paired


def test_images_of_a_prompt_count_as_one():
    """Differences: a 1 and 3, so 2; b 0; c -1. Mean (2 + 0 - 1) / 3 = 1/3, by image it would be 3/4.

    a wins, b ties, c loses: (1 + 1/2) / 3 = 1/2.
    """
    found = paired([1, 2, 5, 7], [2, 5, 5, 6], ["a", "a", "b", "c"], resamples=200)
    assert found.difference == pytest.approx(1 / 3)
    assert found.mean_base == pytest.approx((1.5 + 5 + 7) / 3)
    assert found.mean_method == pytest.approx((3.5 + 5 + 6) / 3)
    assert (found.win_rate, found.num_prompts) == (0.5, 3)
    assert found.low < 1 / 3 < found.high


def test_less_is_a_win_where_lower_is_better():
    found = paired([3, 3, 3, 3], [1, 2, 3, 9], list("abcd"), resamples=200, higher_is_better=False)
    assert found.win_rate == 2.5 / 4
    assert found.difference == 0.75


def test_equal_differences_are_their_own_interval():
    found = paired([0, 1, 2], [0.5, 1.5, 2.5], list("abc"), resamples=200)
    assert (found.low, found.difference, found.high) == (0.5, 0.5, 0.5)


def test_one_prompt_has_no_interval():
    found = paired([0, 1], [1, 1], ["a", "a"], resamples=200)
    assert (found.difference, found.low, found.high, found.num_prompts) == (0.5, None, None, 1)


def test_without_repeated_texts_it_is_scipys_bca():
    differences = np.random.default_rng(0).exponential(size=40)
    known = scipy_stats.bootstrap((differences,), np.mean, n_resamples=2000, rng=np.random.default_rng(5))
    low, high = interval(differences, [f"{i:02}" for i in range(40)], 0.95, 2000, seed=5)
    assert (low, high) == pytest.approx(tuple(known.confidence_interval))


def test_percentile_where_bca_does_not_exist():
    """Of differences 0 and 1 a resampled mean is 0, 1/2 or 1, chances 1/4, 1/2, 1/4: 95 % reach 0 to 1."""
    assert interval(np.array([0.0, 1.0]), ["a", "b"], 0.95, 1000, seed=0) == (0.0, 1.0)


def test_repeated_texts_are_drawn_together():
    """Two texts, 30 entries each, differences all 0 or all 1: there are two observations, not sixty."""
    differences, texts = np.repeat([0.0, 1.0], 30), ["a"] * 30 + ["b"] * 30
    assert interval(differences, texts, 0.95, 1000, seed=0) == (0.0, 1.0)
    alone = interval(differences, [str(i) for i in range(60)], 0.95, 1000, seed=0)
    assert 0.3 < alone[0] < alone[1] < 0.7


def test_a_long_text_keeps_its_weight():
    """Entries 0, 0, 0, 1 of texts a a a b: the mean is 1/4, not the mean 1/2 of the two text means."""
    found = paired([0] * 4, [0, 0, 0, 1], ["1", "2", "3", "4"], texts=["a", "a", "a", "b"], resamples=200)
    assert found.difference == 0.25
    assert found.low <= 0.25 <= found.high


def test_the_same_seed_gives_the_same_interval():
    base, method = np.zeros(30), np.random.default_rng(1).normal(size=30)
    prompts = [str(i) for i in range(30)]
    first = paired(base, method, prompts, resamples=300, seed=2)
    assert first == paired(base[::-1], method[::-1], prompts[::-1], resamples=300, seed=2)
    assert first != paired(base, method, prompts, resamples=300, seed=3)
