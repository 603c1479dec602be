"""Bootstrap intervals: against a loop that does it one draw at a time, and how often they hold the truth."""

import math
import random

import numpy as np
import pytest

from lpobench.records.bootstrap import by_text, draws, intervals


def clustered(generator: np.random.Generator, columns: int) -> tuple[np.ndarray, list[str]]:
    """Skewed differences, mean 1: 160 texts of 1 to 3 prompts, half of whose variance is their text's."""
    sizes = np.resize([1, 2, 3], 160)
    texts = [f"text {place:03}" for place, size in enumerate(sizes) for _ in range(size)]
    shared = np.repeat(generator.exponential(size=(len(sizes), columns)), sizes, axis=0)
    own = generator.exponential(size=(len(texts), columns))
    return (shared + own) / 2, texts


def one_by_one(differences: list[float], texts: list[str], resamples: int) -> tuple[float, float]:
    """The percentile interval in plain Python, with random numbers of its own."""
    groups: dict[str, list[float]] = {}
    for value, text in zip(differences, texts, strict=True):
        groups.setdefault(text, []).append(value)
    names, drawn, means = sorted(groups), random.Random(0), []
    for _ in range(resamples):
        values = [value for name in drawn.choices(names, k=len(names)) for value in groups[name]]
        means.append(sum(values) / len(values))
    means.sort()
    return means[round(0.025 * resamples)], means[round(0.975 * resamples)]


@pytest.mark.parametrize("seed", range(3))
def test_nineteen_in_twenty_hold_the_truth(seed):
    """2,000 experiments each; the share is known to 0.5 points, so that 93 to 97 % is four of them either way."""
    differences, texts = clustered(np.random.default_rng(seed), 2000)
    low, high = intervals(differences, texts, 0.95, 2000, seed=0)
    held = np.mean((low <= 1) & (high >= 1))
    assert 0.93 <= held <= 0.97, held


def test_ignoring_that_prompts_share_a_text_holds_it_less_often():
    """What the clustering is for: each text counted as so many prompts of their own, 1 in 20 becomes 1 in 8."""
    differences, texts = clustered(np.random.default_rng(1), 500)
    low, high = intervals(differences, [str(i) for i in range(len(texts))], 0.95, 500, seed=0)
    assert np.mean((low <= 1) & (high >= 1)) < 0.92


def test_it_is_what_a_loop_over_draws_gives():
    """Symmetric differences, where BCa and percentile agree: to a tenth of the interval's width."""
    generator = np.random.default_rng(3)
    texts = [f"text {place % 40}" for place in range(100)]
    differences = generator.normal(0.2, 1, size=100)
    low, high = intervals(differences[:, None], texts, 0.95, 4000, seed=0)
    expected = one_by_one(differences.tolist(), texts, 4000)
    assert (low[0], high[0]) == pytest.approx(expected, abs=0.1 * (expected[1] - expected[0]))


def test_many_at_once_are_what_each_is_alone():
    """Also past the number that is in memory at once, among them one without spread and one of few values."""
    differences, texts = clustered(np.random.default_rng(4), 300)
    differences[:, 7], differences[:, 8] = 0.25, np.arange(len(texts)) % 2
    low, high = intervals(differences, texts, 0.9, 300, seed=5)
    for column in (0, 7, 8, 255, 256, 299):
        alone = intervals(differences[:, [column]], texts, 0.9, 300, seed=5)
        assert (low[column], high[column]) == pytest.approx((alone[0][0], alone[1][0]), rel=1e-12)
    assert low[7] == high[7] == 0.25


def test_sums_by_text():
    totals, sizes = by_text(np.array([[1.0], [2.0], [4.0]]), ["b", "a", "b"])
    assert (totals.tolist(), sizes.tolist()) == ([[2.0], [5.0]], [1.0, 2.0])


def test_every_draw_draws_as_many_as_there_are():
    blocks = draws(7, 2500, seed=0)
    assert [len(block) for block in blocks] == [1000, 1000, 500]
    assert all((block.sum(1) == 7).all() for block in blocks)
    assert math.isclose(np.concatenate(blocks).mean(), 1.0)
