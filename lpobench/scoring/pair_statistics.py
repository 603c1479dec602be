"""The numbers behind reward_quality.py, each a function of arrays. NaN stands for what is not known."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
from jaxtyping import Float64
from numpy import ndarray

BINS, MARGIN_BINS = 10, 20
Row = dict[str, float]


def share_right(gaps: Float64[ndarray, "levels n"], wanted: Float64[ndarray, " n"]) -> Float64[ndarray, " n"]:
    """Share of levels at which a gap has the wanted sign (1 or -1); no gap at all is half right."""
    right = 0.5 + 0.5 * np.sign(gaps) * wanted
    known = np.isfinite(right)
    return np.where(known, right, 0).sum(0) / np.where(known.any(0), known.sum(0), np.nan)


def mean_and_error(values: Float64[ndarray, " n"], clusters: ndarray) -> tuple[float, float, int]:
    """Mean of the values that are known, its standard error, and their number.

    Values of one cluster may depend on each other: with C clusters,
    se^2 = C / (C - 1) * sum over clusters of (sum of residuals)^2 / n^2, which is the usual one where every cluster
    has one value. NaN with fewer than two clusters.
    """
    known = np.isfinite(values)
    values, (codes, distinct) = values[known], pd.factorize(clusters[known])
    if not len(values):
        return np.nan, np.nan, 0
    mean = float(values.mean())
    if len(distinct) < 2:
        return mean, np.nan, len(values)
    sums = np.bincount(codes, values - mean)
    error = np.sqrt(len(sums) / (len(sums) - 1) * (sums**2).sum()) / len(values)
    return mean, float(error), len(values)


def calibration(margins: Float64[ndarray, " n"]) -> list[Row]:
    """Ten bins of sureness, sigmoid(|margin|), from 0.5 to 1: how many, how sure on average, how often right."""
    margins = margins[np.isfinite(margins)]
    sure, right = 1 / (1 + np.exp(-np.abs(margins))), 0.5 + 0.5 * np.sign(margins)
    edges = np.linspace(0.5, 1, BINS + 1)
    places = np.clip(np.searchsorted(edges, sure, side="right") - 1, 0, BINS - 1)
    rows = []
    for number, (low, high) in enumerate(pairwise(edges)):
        inside = places == number
        n = int(inside.sum())
        mean = {"sure": sure[inside].sum() / (n or np.nan), "right": right[inside].sum() / (n or np.nan)}
        rows.append({"low": low, "high": high, "n": n, **mean})
    return rows


def calibration_error(bins: list[Row]) -> float:
    """Expected calibration error: |sure - right| of the bins, by their number of pairs."""
    number = sum(row["n"] for row in bins)
    return sum(row["n"] * abs(row["sure"] - row["right"]) for row in bins if row["n"]) / (number or np.nan)


def histogram(margins: Float64[ndarray, " n"], limit: float) -> list[Row]:
    """Twenty bins from -limit to limit."""
    counts, edges = np.histogram(margins[np.isfinite(margins)], MARGIN_BINS, (-limit, limit))
    bins = zip(pairwise(edges), counts, strict=True)
    return [{"low": low, "high": high, "n": int(n)} for (low, high), n in bins]


def correlation(a: Float64[ndarray, " n"], b: Float64[ndarray, " n"]) -> float:
    """Pearson, of the entries that both know; NaN for fewer than three, or where one is constant."""
    known = np.isfinite(a) & np.isfinite(b)
    a, b = a[known], b[known]
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return np.nan
    return float(np.corrcoef(a, b)[0, 1])


def spread(gaps: Float64[ndarray, " n"]) -> float:
    """Standard deviation of one score under one prompt, of differences between two: root mean square over sqrt 2."""
    gaps = gaps[np.isfinite(gaps)]
    return float(np.sqrt((gaps**2).mean() / 2)) if len(gaps) else np.nan
