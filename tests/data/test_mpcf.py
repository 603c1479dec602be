"""MPCF against the published rules (released code; LPO sec. 4.1)."""

import numpy as np
import pandas as pd
import pytest

from lpobench.data import mpcf
from lpobench.plugin import UserError


def table(*rows: tuple[float, float, float], tie: bool = False) -> pd.DataFrame:
    label = 0.5 if tie else 1.0
    return pd.DataFrame(rows, columns=list(mpcf.GAPS)).assign(label_0=label, label_1=1 - label)


@pytest.mark.parametrize(
    ("strategy", "kept"),
    [
        ("none", [True, True, True, True, True]),
        ("1", [True, False, False, False, False]),
        ("2", [True, True, False, False, False]),
        ("3", [True, True, True, False, False]),
    ],
)
def test_strategies_differ_in_how_much_beauty_a_winner_may_lack(strategy, kept):
    pairs = table((0.1, 0.1, 0.1), (-0.4, 0.1, 0.1), (-0.9, 0.1, 0.1), (2, 0, 0.1), (2, 0.1, -0.1))
    assert mpcf.keep(pairs, mpcf.STRATEGIES[strategy]).tolist() == kept


def test_limits_are_strict():
    assert not mpcf.keep(table((-0.5, 0.1, 0.1)), mpcf.STRATEGIES["2"]).any()


@pytest.mark.parametrize("strategy", ["1", "2", "3"])
def test_ties_need_all_three_gaps_small(strategy):
    ties = table((0.19, 0.02, 0.06), (0.2, 0.02, 0.06), (0.1, 0.03, 0.06), (0.1, 0.02, 0.07), tie=True)
    assert mpcf.keep(ties, mpcf.STRATEGIES[strategy]).tolist() == [True, False, False, False]


def test_units_scale_every_limit():
    limits = mpcf.STRATEGIES["2"].in_units((0.1, 10.0, 2.0))
    np.testing.assert_allclose(limits.win_lose, (-0.05, 0, 0))
    np.testing.assert_allclose(limits.tie, (0.02, 0.3, 0.14))


def test_an_unknown_gap_does_not_pass():
    assert mpcf.keep(table((np.nan, 1, 1), (1, 1, 1)), mpcf.STRATEGIES["3"]).tolist() == [False, True]


def test_missing_columns_are_named():
    with pytest.raises(UserError, match="lack vqascore_gap"):
        mpcf.keep(table((1, 1, 1)).drop(columns="vqascore_gap"), mpcf.STRATEGIES["2"])
