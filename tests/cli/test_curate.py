"""`lpobench data score`, `filter` and `encode`, on the embedded world with the embedded judge and VAE."""

import json

import pandas as pd
import pytest

GAPS = ("aesthetic_gap=shapes.aesthetics", "clipscore_gap=shapes.alignment", "vqascore_gap=shapes.preference")
GAPS = tuple(word for gap in GAPS for word in ("--gap", gap))


@pytest.fixture
def scored(cli, tmp_path, monkeypatch):
    """24 training pairs and 3 of each held-out split, scored."""
    monkeypatch.chdir(tmp_path)
    done = cli(
        "data",
        "score",
        "shapes:24",
        "--scorers",
        "shapes.alignment",
        "--out",
        "scores",
        "--shard-images",
        "9",
    )
    assert done.code == 0, done.err
    return done


def test_from_scores_to_a_cache(cli, scored, tmp_path):
    assert "scored by shapes" in scored.out
    words = (
        "data",
        "filter",
        "shapes:24",
        "--scores",
        "scores",
        *GAPS,
        "--units",
        "0.15,3,1.5",
        "--strategy",
        "2",
    )
    told = cli(*words, "--out", "kept.csv.gz")
    assert told.code == 0, told.err
    assert "168,539" in told.out
    assert "8,537" in told.out
    found = json.loads(cli(*words, "--json").out)
    assert found["published"]["2"] == [168_539, 8_537]
    assert found["counts"]["held_out"] == {"test_unique": 3, "validation_unique": 3}
    chosen = found["strategies"]["2"]
    assert chosen == {"win_lose": found["counts"]["kept_win_lose"], "ties": found["counts"]["kept_ties"]}
    kept = pd.read_csv("kept.csv.gz")
    assert len(kept) == found["kept"] == sum(chosen.values()) + 6

    words = (
        "data",
        "encode",
        "shapes:24",
        "--backbone",
        "tiny-sd15",
        "--kept",
        "kept.csv.gz",
        "--out",
        "cache",
    )
    done = cli(*words, "--texts", "--shard-images", "16", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert (found["pairs"], found["encoded"]) == (len(kept), found["distinct_images"])
    assert 0 <= found["outside_vae"] < 1
    again = cli(*words, "--shard-images", "16")
    assert f"0 now, {found['encoded']} before" in again.out

    other = cli(*words, "--shard-images", "16", "--set", "backbone.resolution=32")
    assert other.code == 2
    assert "cache holds other work: its size is 64, this one's 32; choose another --out" in other.err


def test_the_authors_csv_needs_no_scores(cli, tmp_path):
    """Their file has a flag and three gaps per training row, and no other key."""
    from lpobench.data.pairs.plan import pair_table
    from lpobench.data.pairs.source import open_pairs

    table = pair_table(open_pairs("shapes:60", "train"))
    different = table["label_0"] != table["label_1"]
    gaps = dict.fromkeys(("aesthetic_gap", "clipscore_gap", "vqascore_gap"), 0.01)
    csv = pd.DataFrame({"different_flag": different}).assign(**gaps)
    csv.loc[0, "aesthetic_gap"] = -0.4
    csv.to_csv(tmp_path / "scores.csv", index=False)
    words = ("data", "filter", "shapes:60", "--authors", str(tmp_path / "scores.csv"))
    found = json.loads(cli(*words, "--strategy", "2", "--json").out)
    assert found["counts"]["kept_win_lose"] == different.sum()
    assert found["counts"]["kept_ties"] == (~different).sum() > 0
    assert found["strategies"]["1"]["win_lose"] == different.sum() - different[0]
    told = cli(*words, "--strategy", "2")
    assert f"aligned: {(~different).sum()} ties among 60 labelled rows" in told.err
    shifted = pd.concat([csv[1:], csv[:1]])
    shifted.to_csv(tmp_path / "scores.csv", index=False)
    assert "is not aligned with the train split" in cli(*words, "--strategy", "2").err


def test_a_rule_counts_without_writing(cli, scored, tmp_path):
    before = set(tmp_path.iterdir())
    found = json.loads(
        cli(
            "data",
            "filter",
            "shapes:24",
            "--scores",
            "scores",
            "--rule",
            "shapes_preference_gap > 0",
            "--json",
        ).out
    )
    assert 0 < found["counts"]["kept_win_lose"] < 24
    assert found["strategies"] == {}, "there are no gaps of MPCF's names"
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("words", "code", "problem"),
    [
        (("filter", "shapes:9", "--scores", "s"), 2, "give --strategy none, 1, 2 or 3, or a --rule"),
        (("filter", "shapes:9", "--strategy", "4", "--scores", "s"), 2, 'unknown strategy "4"'),
        (("filter", "shapes:9", "--strategy", "2"), 2, "give --scores FOLDER or --authors CSV"),
        (("filter", "shapes:9", "--rule", "tie", "--scores", "s"), 3, "no scores in s"),
        (("filter", "shapes:9", "--rule", "os.system(1) > 0", "--scores", "s"), 2, "may not stand in it"),
        (
            ("filter", "shapes:9", "--strategy", "2", "--authors", "x.csv"),
            3,
            "no CSV of MPCF scores at x.csv",
        ),
        (("filter", "shapes:9", "--strategy", "none", "--out", "x.csv"), 2, "should end in .csv.gz"),
        (("filter", "shapes:9", "--rule", "tie", "--scores", "s", "--gap", "x"), 2, "GAP=SCORER.METRIC"),
        (
            ("filter", "shapes:9", "--strategy", "2", "--scores", "s", "--units", "1,2"),
            2,
            "three numbers above 0",
        ),
        (("score", "shapes:9", "--scorers", "shapes.beauty", "--out", "s"), 2, 'has no metric "beauty"'),
        (("score", "shapes:9", "--scorers", "shape", "--out", "s"), 2, 'did you mean "shapes"'),
        (
            ("score", "shapes:9", "--scorers", "shapes", "--out", "s", "--shard", "2/2"),
            2,
            "I/N with I from 0 to N-1",
        ),
        (("score", "nowhere", "--scorers", "shapes", "--out", "s"), 3, 'no preference pairs at "nowhere"'),
        (
            ("encode", "shapes:9", "--backbone", "tiny-sd15", "--out", "c", "--kept", "k"),
            3,
            "no table of kept pairs",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line(words, code, problem, cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = cli("data", *words)
    assert done.code == code, done.err
    assert problem in done.err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == [], "nothing was written"
