"""How good reward models are on held-out pairs: accuracy, calibration, margins, correlations, agreement.

    margin        score of the winner minus score of the loser, at equal prompt, noise and noise level
    accuracy      share of pairs with a margin above 0; a margin of exactly 0 counts one half; ties are left out
    calibration   sigmoid(|margin|) is how sure a model is of its choice, against how often it is right
    correlations  Pearson of margins and the pairs' own gaps (LPO table 8): Aes-Corr aesthetic_gap, CLIP-Corr
                  clipscore_gap, VQA-Corr vqascore_gap. On shapes world these are aesthetics, words, alignment
    agreement     share of pairs, ties too, that two models rank alike

Standard errors are clustered by caption: pairs of one prompt are not independent. A pair with a score that is not
finite is left out at that level, and counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
import pandas as pd

from lpobench.data.pairs import LatentPairs
from lpobench.scoring import pair_statistics as statistics
from lpobench.scoring.noised import Level, NoFiniteScore, level_name
from lpobench.scoring.pair_scores import Scores
from lpobench.scoring.pair_statistics import Row, mean_and_error

CORRELATIONS = {"aes_corr": "aesthetic_gap", "clip_corr": "clipscore_gap", "vqa_corr": "vqascore_gap"}


@dataclass(frozen=True)
class Quality:
    """Tables by reward and level; `t` is a level's name."""

    levels: pd.DataFrame
    """accuracy, accuracy_se, n (of win-lose pairs); accuracy_true, accuracy_true_se, n_true (against the exact
    preference, of all pairs where it is known and not equal); mean of all scores, spread (their standard deviation
    under one prompt), left_out (pairs); ece (expected calibration error); aes_corr, clip_corr, vqa_corr."""
    overall: pd.DataFrame
    """By reward, over all levels with noise (over all there are, where none has any): accuracy to left_out."""
    calibration: pd.DataFrame
    """low, high (a bin of sureness), n, sure (mean), right (share)."""
    margins: pd.DataFrame
    """low, high (a bin of margins), n."""
    agreement: pd.DataFrame
    """reward_a, reward_b, t, agreement, agreement_se, n."""


def quality(scores: Mapping[str, Scores], pairs: LatentPairs, levels: Sequence[Level]) -> Quality:
    """The tables of some rewards' scores of the same pairs. Raises NoFiniteScore."""
    judged = {name: Judged.of(name, found, pairs) for name, found in scores.items()}
    everywhere = [(p, {"t": level_name(level)}) for p, level in enumerate(levels)]
    every = [({"reward": name} | t, one, place) for name, one in judged.items() for place, t in everywhere]
    noised = [place for place, level in enumerate(levels) if level is not None] or list(range(len(levels)))
    return Quality(
        levels=pd.DataFrame([key | one.level(place) for key, one, place in every]),
        overall=pd.DataFrame([{"reward": name, **one.summary(noised)} for name, one in judged.items()]),
        calibration=pd.DataFrame([key | row for key, one, place in every for row in one.calibration(place)]),
        margins=pd.DataFrame([key | row for key, one, place in every for row in one.histogram(place)]),
        agreement=pd.DataFrame(
            [
                {"reward_a": a, "reward_b": b, **t, **agreed(judged[a], judged[b], place)}
                for a, b in combinations(judged, 2)
                for place, t in everywhere
            ]
        ),
    )


@dataclass(frozen=True)
class Judged:
    """One reward's scores of pairs; NaN where one of a pair's two is not finite."""

    scores: Scores
    table: pd.DataFrame
    winner: np.ndarray
    """1 where image 0 wins, -1 where image 1 does, NaN for a tie."""
    truth: np.ndarray
    """The same of the exact preference; NaN where it is unknown or equal."""

    @classmethod
    def of(cls, name: str, scores: Scores, pairs: LatentPairs) -> Judged:
        whole = np.isfinite(scores).all(1, keepdims=True)
        if not whole.any():
            raise NoFiniteScore(f"reward {name} gives no pair a finite score")
        sign = lambda lead: np.where(lead == 0, np.nan, np.sign(lead))
        winner, truth = sign(pairs.table["label_0"].to_numpy(float) - 0.5), sign(pairs.true_gap)
        return cls(np.where(whole, scores, np.nan), pairs.table, winner, truth)

    @cached_property
    def gaps(self) -> np.ndarray:
        """(levels, pairs): score of image 0 minus score of image 1."""
        return self.scores[:, 0] - self.scores[:, 1]

    @cached_property
    def captions(self) -> np.ndarray:
        return self.table["caption"].to_numpy()

    def margins(self, place: int) -> np.ndarray:
        """NaN for ties."""
        return self.gaps[place] * self.winner

    def level(self, place: int) -> Row:
        correlations = {
            name: statistics.correlation(self.margins(place), self.table[gap].to_numpy(float))
            for name, gap in CORRELATIONS.items()
        }
        ece = statistics.calibration_error(self.calibration(place))
        return {**self.summary([place]), "ece": ece, **correlations}

    def summary(self, places: list[int]) -> Row:
        """Over some levels; a pair counts by the share of them at which it is ranked right."""
        row, gaps, scores = {}, self.gaps[places], self.scores[places]
        for suffix, wanted in (("", self.winner), ("_true", self.truth)):
            found = mean_and_error(statistics.share_right(gaps, wanted), self.captions)
            row |= dict(zip((f"accuracy{suffix}", f"accuracy{suffix}_se", f"n{suffix}"), found, strict=True))
        known = scores[np.isfinite(scores)]
        row["mean"] = float(known.mean()) if len(known) else np.nan
        return {**row, "spread": statistics.spread(gaps), "left_out": int(np.isnan(gaps).any(0).sum())}

    def calibration(self, place: int) -> list[Row]:
        return statistics.calibration(self.margins(place))

    def histogram(self, place: int) -> list[Row]:
        """The bins are the same at all levels."""
        return statistics.histogram(self.margins(place), np.nanmax(np.abs(self.gaps)) or 1.0)


def agreed(a: Judged, b: Judged, place: int) -> Row:
    """How often two rewards rank a pair alike; where one of them ranks neither first, one half."""
    alike = 0.5 + 0.5 * np.sign(a.gaps[place]) * np.sign(b.gaps[place])
    found = mean_and_error(alike, a.captions)
    return dict(zip(("agreement", "agreement_se", "n"), found, strict=True))
