"""Multi-preference consistency filtering (LPO sec. 4.1): keep the pairs on which several scorers agree.

A gap is a scorer's winner minus loser; for a tie it is the absolute difference. The limits are the
released ones, in units of the LAION aesthetic predictor, CLIP ViT-H-14's cosine and VQAScore. Data in other
units says how large one published unit is there (`LatentPairs.meta.gap_units`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lpobench.plugin import Strategy, UserError

if TYPE_CHECKING:
    import pandas as pd

GAPS = ("aesthetic_gap", "clipscore_gap", "vqascore_gap")


@dataclass(frozen=True)
class Limits:
    """A win-lose pair is kept above `win_lose`, a tie below `tie`: strictly, in all three GAPS."""

    win_lose: tuple[float, float, float]
    tie: tuple[float, float, float] = (0.2, 0.03, 0.07)

    def in_units(self, units: tuple[float, float, float]) -> Limits:
        """The same limits where one published unit is `units` of the data's own."""
        return Limits(*(tuple(np.multiply(limits, units).tolist()) for limits in (self.win_lose, self.tie)))


STRATEGIES: dict[Strategy, Limits | None] = {
    "none": None,
    "1": Limits((0.0, 0.0, 0.0)),
    "2": Limits((-0.5, 0.0, 0.0)),  # the published LRMs
    "3": Limits((-1.0, 0.0, 0.0)),
}


def keep(pairs: pd.DataFrame, limits: Limits | None) -> np.ndarray:
    """Boolean mask of the rows that pass; None keeps every row. A pair with a NaN gap does not pass."""
    if limits is None:
        return np.ones(len(pairs), dtype=bool)
    if missing := [name for name in GAPS if name not in pairs]:
        raise UserError(f"MPCF needs the columns {', '.join(GAPS)}; the pairs lack {', '.join(missing)}")
    gaps = pairs[list(GAPS)].to_numpy(dtype=float)
    tie = (pairs["label_0"] == pairs["label_1"]).to_numpy()
    return np.where(tie, (gaps < limits.tie).all(1), (gaps > limits.win_lose).all(1))
