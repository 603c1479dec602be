"""Rules, strategies and the authors' CSV over gaps, against what can be counted by hand."""

import re

import numpy as np
import pandas as pd
import pytest

from lpobench.data import mpcf
from lpobench.data.pairs.authors import add_published_gaps
from lpobench.data.pairs.filter import by_strategy, filter_pairs, gap_of, read_kept, take_kept, write_kept
from lpobench.data.pairs.record import Problems
from lpobench.data.pairs.rule import Rule
from lpobench.plugin import MissingAsset, UserError

NAN = float("nan")


def table(num: int = 12, seed: int = 0, **columns) -> pd.DataFrame:
    """Pairs as a source's table, every third a tie, with random gaps of about the published sizes."""
    rng = np.random.default_rng(seed)
    label = np.where(np.arange(num) % 3 == 2, 0.5, rng.integers(0, 2, num))
    sizes = {"aesthetic_gap": 0.6, "clipscore_gap": 0.03, "vqascore_gap": 0.1}
    gaps = {name: rng.normal(0, size, num) for name, size in sizes.items()}
    gaps = {name: np.where(label == 0.5, abs(gap), gap) for name, gap in gaps.items()}
    rows = {"row": np.arange(num), "split": "train", "caption": "a star", "has_label": True}
    rows |= {"image_0_uid": [f"a{i}" for i in range(num)], "image_1_uid": [f"b{i}" for i in range(num)]}
    return pd.DataFrame({**rows, "label_0": label, "label_1": 1 - label, **gaps}).assign(**columns)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("aesthetic_gap > -0.5 and clipscore_gap > 0", [0, 3]),
        ("aesthetic_gap > 0 or clipscore_gap > 0", [0, 1, 3]),
        ("not aesthetic_gap > 0", [2, 3]),
        ("-1 < aesthetic_gap <= 0.5", [0, 2, 3]),
        ("aesthetic_gap + 2 * clipscore_gap >= -aesthetic_gap", [0, 1, 3]),
        ("abs(aesthetic_gap) < 0.45 and tie", [3]),
        ("tie or aesthetic_gap > 0.5", [1, 3]),
        ("1 < 2", [0, 1, 2, 3, 4]),
    ],
)
def test_a_rule_is_what_it_says(text, kept):
    """Row 4's aesthetic gap is unknown: it passes only a rule that does not ask."""
    gaps = {"aesthetic_gap": [0.5, 0.6, -0.9, -0.4, NAN], "clipscore_gap": [0.1, -0.1, -0.2, 0.5, 0.5]}
    rows = pd.DataFrame({**gaps, "label_0": [1, 0, 1, 0.5, 1], "label_1": [0, 1, 0, 0.5, 0]})
    assert np.flatnonzero(Rule(text)(rows)).tolist() == kept


@pytest.mark.filterwarnings("ignore::SyntaxWarning")
@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("aesthetic_gap", "gives a number, not a yes or no"),
        ("aesthetic_gap >", "it is not an expression"),
        ("aesthetic_gap = 3", "it is not an expression"),
        ("__import__('os').system('true') > 0", "may not stand in it"),
        ("aesthetic_gap.values > 0", "may not stand in it"),
        ("aesthetic_gap[0] > 0", "may not stand in it"),
        ("[x for x in (1, 2)] > 0", "may not stand in it"),
        ("aesthetic_gap > '0'", "may not stand in it"),
        ("aesthetic_gap > True", "may not stand in it"),
        ("aesthetic_gap ** 9 > 0", "may not stand in it"),
        ("abs(aesthetic_gap, 1) > 0", "may not stand in it"),
        ("aesthetic_gap > 1e999", "may not stand in it"),
        ("aesthetic_gap > 1" + "0" * 400, "it is not an expression"),
        ("aesthetic_gap and tie", '"aesthetic_gap" is not a yes or no'),
        ("tie + 1 > 0", '"tie" is not a number'),
        ("(lambda: 1)() > 0", "may not stand in it"),
        ("1 > 0 and " * 60 + "tie", "at most 500"),
        ("", "it is not an expression"),
    ],
)
def test_what_is_no_rule_is_refused(text, problem):
    with pytest.raises(UserError, match=re.escape(problem)):
        Rule(text)(table())


def test_an_unknown_column_gets_a_hint():
    with pytest.raises(UserError, match='unknown column "aesthetics_gap"; did you mean "aesthetic_gap"'):
        Rule("aesthetics_gap > 0")(table())


def test_a_gap_is_the_winners_lead():
    rows = pd.DataFrame(
        {"label_0": [1, 0, 0.5, NAN], "label_1": [0, 1, 0.5, NAN], "has_label": [True] * 3 + [False]}
    )
    gaps = gap_of(rows, np.array([3.0, 3, 3, 3]), np.array([5.0, 5, 5, 5]))
    np.testing.assert_array_equal(gaps, [-2, 2, 2, NAN])


@pytest.mark.parametrize("strategy", ["none", "1", "2", "3"])
def test_counts_are_those_of_brute_force(strategy):
    rows = table(600)
    rows.loc[::50, "has_label"] = False
    rows.loc[5, "vqascore_gap"] = NAN
    kept, counts = filter_pairs(rows, by_strategy(strategy), list(mpcf.GAPS))
    least = {"none": None, "1": 0, "2": -0.5, "3": -1}[strategy]

    def passes(row) -> bool:
        a, c, v = row.aesthetic_gap, row.clipscore_gap, row.vqascore_gap
        if row.label_0 == row.label_1:
            return least is None or (a < 0.2 and c < 0.03 and v < 0.07)
        return least is None or (a > least and c > 0 and v > 0)

    expected = [row for row in rows.itertuples() if row.has_label and passes(row)]
    assert kept["row"].tolist() == [row.row for row in expected]
    ties = sum(row.label_0 == 0.5 for row in expected)
    assert (counts.kept_win_lose, counts.kept_ties) == (len(expected) - ties, ties)
    assert (counts.rows, counts.unlabelled, counts.unscored) == (600, 12, 1)
    assert counts.win_lose + counts.ties == 588


def test_held_out_splits_keep_their_labelled_pairs():
    rows = table(10, split=["train"] * 4 + ["validation_unique"] * 4 + ["test_unique"] * 2)
    rows.loc[5, "has_label"] = False
    kept, counts = filter_pairs(rows, Rule("aesthetic_gap > 100"), ["aesthetic_gap"])
    assert kept["row"].tolist() == [4, 6, 7, 8, 9]
    assert (counts.rows, counts.held_out) == (4, {"test_unique": 2, "validation_unique": 3})
    assert len(filter_pairs(rows, Rule("aesthetic_gap > 100"), [], everywhere=True)[0]) == 0
    with pytest.raises(UserError, match='no pair of the split "train" to filter'):
        filter_pairs(rows[4:], Rule("tie"), [])


def test_a_kept_table_comes_back_and_is_checked_by_content(tmp_path):
    rows, problems = table(9, caption=["NA", "null", ""] * 3), Problems()
    kept, counts = filter_pairs(rows, Rule("aesthetic_gap > -9 and row != 4"), ["aesthetic_gap"])
    for name in ("a.csv.gz", "b.csv.gz"):
        write_kept(kept, tmp_path / name, {"source": "x"}, counts)
    assert (tmp_path / "a.csv.gz").read_bytes() == (tmp_path / "b.csv.gz").read_bytes()
    back = take_kept(rows, read_kept(tmp_path / "a.csv.gz"), problems)
    assert back["row"].tolist() == [0, 1, 2, 3, 5, 6, 7, 8]
    assert back["caption"].tolist()[:3] == ["NA", "null", ""]
    assert (back["aesthetic_gap"].to_numpy() == kept["aesthetic_gap"].to_numpy()).all()
    assert not len(problems)
    assert len(take_kept(rows[1:], read_kept(tmp_path / "a.csv.gz"), problems)) == 7
    assert problems.lines() == ["1 row: a kept pair cannot be read (row 0)"]
    with pytest.raises(UserError, match=r"another source: image_1_uid of row 3 is z here, b3 there \(1 of 8"):
        take_kept(rows.replace({"image_1_uid": {"b3": "z"}}), kept, problems)
    with pytest.raises(MissingAsset, match="no table of kept pairs"):
        read_kept(tmp_path / "none.csv.gz")
    (tmp_path / "bad.csv.gz").write_bytes((tmp_path / "a.csv.gz").read_bytes()[:60])
    with pytest.raises(UserError, match="cannot read"):
        read_kept(tmp_path / "bad.csv.gz")


def authors_csv(path, rows: pd.DataFrame, **changes):
    columns = {"different_flag": rows["label_0"] != rows["label_1"], **{gap: rows[gap] for gap in mpcf.GAPS}}
    pd.DataFrame(columns).assign(**changes).to_csv(path)
    return path


def test_the_authors_csv_is_aligned_by_its_ties(tmp_path):
    """The CSV covers every row; row 7 is one the source could not read."""
    rows = table(30)
    path = authors_csv(tmp_path / "scores.csv", rows, vqascore_gap=np.where(np.arange(30) == 2, -0.1, 0.3))
    scored, evidence = add_published_gaps(rows.drop(index=7), 30, path)
    np.testing.assert_allclose(scored["aesthetic_gap"], rows["aesthetic_gap"].drop(index=7))
    assert scored.loc[2, "vqascore_gap"] == -0.1, "as it stands there, also for ties"
    assert evidence == {"rows": 29, "ties": 10, "ties_with_a_negative_gap": 1}


def test_a_csv_of_other_rows_is_refused_though_its_length_fits(tmp_path):
    rows = table(30)
    shifted = authors_csv(tmp_path / "shifted.csv", rows.iloc[[*range(1, 30), 0]].reset_index(drop=True))
    with pytest.raises(
        UserError, match=r"row 1 is a win-lose pair there and a tie in the CSV \(20 of 30 rows"
    ):
        add_published_gaps(rows, 30, shifted)
    short = authors_csv(tmp_path / "short.csv", rows[:29])
    with pytest.raises(UserError, match="has 29 rows, the train split 30"):
        add_published_gaps(rows, 30, short)
    untied = rows[rows["label_0"] != 0.5].reset_index(drop=True).assign(row=range(20))
    with pytest.raises(UserError, match="no ties to align by"):
        add_published_gaps(untied, 20, authors_csv(tmp_path / "untied.csv", untied))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"different_flag": "maybe"}, "different_flag of row 0 should be True or False, got maybe"),
        ({"clipscore_gap": "x"}, "clipscore_gap is not a number"),
    ],
)
def test_a_csv_with_odd_cells_is_refused(changes, problem, tmp_path):
    with pytest.raises(UserError, match=problem):
        add_published_gaps(table(30), 30, authors_csv(tmp_path / "odd.csv", table(30), **changes))
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="lacks the column different_flag"):
        add_published_gaps(table(30), 30, tmp_path / "other.csv")
