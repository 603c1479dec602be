"""Bootstrap intervals of means over prompts, for many comparisons at once.

What is drawn anew is prompt texts, each with all that belongs to it. All columns share their draws: a thousand
intervals are one product of matrices, and come out as each would alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist

import numpy as np

NORMAL = NormalDist()
AT_ONCE = 1000
"""Draws that are made, and multiplied, at once."""
COLUMNS = 256
"""Comparisons whose resampled means are in memory at once."""


def intervals(
    differences: np.ndarray, texts: Sequence[str], confidence: float, resamples: int, seed: int
) -> tuple[np.ndarray, np.ndarray] | tuple[None, None]:
    """Lower and upper ends, one per column of `differences` (one row per prompt); `texts` names each row's text.

    BCa (Efron 1987), the very numbers of scipy.stats.bootstrap with the same seed; its percentile form where BCa does
    not exist (its bias correction needs resampled means on both sides of the mean). Where all texts have the same mean
    difference no resampling can say more: both ends are that value. Fewer than two texts have no interval.
    """
    totals, sizes = by_text(differences, texts)
    if len(sizes) < 2:
        return None, None
    means = totals / sizes[:, None]
    low, high = means[0].copy(), means[0].copy()
    drawn = np.flatnonzero(np.ptp(means, axis=0) > 0)
    for start in range(0, len(drawn), COLUMNS):
        some = drawn[start : start + COLUMNS]
        low[some], high[some] = _ends(totals[:, some], sizes, confidence, resamples, seed)
    return low, high


def by_text(differences: np.ndarray, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Sums of the rows of each text, and how many there are; texts in their order as text."""
    names, place = np.unique(np.asarray(texts, str), return_inverse=True)
    order = np.argsort(place, kind="stable")
    sizes = np.bincount(place, minlength=len(names))
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    return np.add.reduceat(np.asarray(differences, float)[order], starts), sizes.astype(float)


@lru_cache(maxsize=1)
def draws(num: int, resamples: int, seed: int) -> list[np.ndarray]:
    """How often each of `num` texts is drawn: rows of counts that sum to `num`, in blocks of rows."""
    generator = np.random.default_rng(seed)
    blocks = []
    for start in range(0, resamples, AT_ONCE):
        some = min(AT_ONCE, resamples - start)
        chosen = generator.integers(0, num, size=(some, num)) + num * np.arange(some)[:, None]
        counts = np.bincount(chosen.ravel(), minlength=some * num)
        blocks.append(counts.reshape(some, num).astype(np.uint16))
    return blocks


def _ends(
    totals: np.ndarray, sizes: np.ndarray, confidence: float, resamples: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Of columns that differ between texts."""
    blocks = (block.T.astype(float) for block in draws(len(sizes), resamples, seed))
    resampled = np.concatenate([totals.T @ counts / (sizes @ counts) for counts in blocks], axis=1)
    tail = (1 - confidence) / 2
    chances = _bca(resampled, totals, sizes, np.array([tail, 1 - tail]))
    chances = np.where(np.isfinite(chances).all(0), chances, np.array([[tail], [1 - tail]]))
    ends = np.array([np.quantile(means, chance) for means, chance in zip(resampled, chances.T, strict=True)])
    return ends[:, 0], ends[:, 1]


def _bca(resampled: np.ndarray, totals: np.ndarray, sizes: np.ndarray, tails: np.ndarray) -> np.ndarray:
    """The quantiles to take in place of `tails` (2), for every column; nan where there is no correction."""
    mean = (totals.sum(0) / sizes.sum())[:, None]
    below = ((resampled < mean).mean(1) + (resampled <= mean).mean(1)) / 2
    bias = np.array([NORMAL.inv_cdf(share) if 0 < share < 1 else math.nan for share in below.tolist()])
    left_out = (totals.sum(0) - totals) / (sizes.sum() - sizes)[:, None]
    moves = left_out.mean(0) - left_out
    with np.errstate(invalid="ignore", divide="ignore"):
        acceleration = (moves**3).sum(0) / (6 * (moves**2).sum(0) ** 1.5)
        shifted = bias + np.array([[NORMAL.inv_cdf(tail)] for tail in tails.tolist()])
        places = bias + shifted / (1 - acceleration * shifted)
    return np.array([[math.erfc(-place / math.sqrt(2)) / 2 for place in row] for row in places.tolist()])
