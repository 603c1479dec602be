"""`lpobench reward eval`, on rewards and pairs whose accuracy is known."""

import json

import numpy as np
import pandas as pd
import pytest
from made_judges import judges, pairs  # noqa: F401
from PIL import Image

pytestmark = pytest.mark.usefixtures("judges")
FILES = ["accuracy-by-timestep.png", "accuracy-by-timestep.svg", "accuracy.csv", "calibration.csv"]


@pytest.fixture
def held_out(tmp_path, monkeypatch):
    """40 pairs in the folder `pairs` of the working folder; brighter wins but for every eighth label."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    means = rng.normal(size=(40, 2)).astype(np.float16).astype(float)
    labels = (means[:, 0] > means[:, 1]).astype(float)
    labels[::8] = 1 - labels[::8]
    labels[1] = 0.5
    gap = np.where(labels > 0.5, 1, -1) * (means[:, 0] - means[:, 1])
    pairs(means.tolist(), labels.tolist(), aesthetic_gap=gap, vqascore_gap=-gap).write(tmp_path / "pairs")
    return tmp_path


def evaluated(cli, *words):
    return cli("reward", "eval", "--pairs", "pairs", "--out", "out", *words)


def test_one_reward_at_every_level(cli, held_out):
    done = evaluated(cli)
    assert done.code == 0, done.err
    assert "40 pairs of pairs (validation_unique, test_unique), 39 with a winner" in done.out
    assert "87.2%" in done.out, "34 of 39"
    assert "100.0%" in done.out, "by truth"
    assert sorted(path.name for path in (held_out / "out").iterdir()) == [
        *FILES,
        "margins.csv",
        "summary.json",
    ]
    table = pd.read_csv("out/accuracy.csv")
    assert table["t"].tolist() == [*map(str, range(951, 0, -50)), "finished"]
    assert table["accuracy"].to_numpy() == pytest.approx(34 / 39)
    assert (table["accuracy_true"] == 1).all()
    assert table[["aes_corr", "vqa_corr"]].to_numpy() == pytest.approx(np.array([[1, -1]] * 21), abs=1e-3)
    assert table["clip_corr"].isna().all()
    with Image.open("out/accuracy-by-timestep.png") as image:
        assert image.size == (1290, 750)


def test_several_rewards_and_how_they_agree(cli, held_out):
    words = ("--reward", "brighter", "--reward", "brighter,sign=-1", "--reward", "pixel,metric=light")
    done = evaluated(cli, *words, "--timesteps", "901,finished", "--json")
    assert done.code == 0, done.err
    document = json.loads(done.out)
    assert document == json.loads((held_out / "out" / "summary.json").read_text())
    assert list(document["rewards"]) == ["brighter", "brighter,sign=-1", "pixel"]
    assert document["rewards"]["brighter,sign=-1"]["settings"] == {"sign": -1}
    overall = {row["reward"]: row for row in document["overall"]}
    assert overall["brighter"]["accuracy"] == pytest.approx(34 / 39)
    assert overall["brighter,sign=-1"]["accuracy"] == pytest.approx(5 / 39)
    agreement = {
        (row["reward_a"], row["reward_b"], row["t"]): row["agreement"] for row in document["agreement"]
    }
    assert agreement["brighter", "brighter,sign=-1", "901"] == 0
    assert agreement["brighter", "pixel", "finished"] > 0.9
    assert (document["pairs"], document["win_lose"], document["levels"]) == (40, 39, ["901", "finished"])
    assert document["accuracy"][0]["clip_corr"] is None
    shown = evaluated(cli, *words, "--timesteps", "finished").out
    assert "rank alike: t" in shown
    assert "brighter and pixel" in shown
    assert "stroke: #009e73" in (held_out / "out" / "accuracy-by-timestep.svg").read_text()


def test_neither_batch_nor_limit_change_a_pairs_scores(cli, held_out):
    def table(*words):
        assert evaluated(cli, "--timesteps", "501", *words).code == 0
        return json.loads((held_out / "out" / "summary.json").read_text())

    whole, small = table("--batch", "100"), table("--batch", "3")
    assert whole["accuracy"] == small["accuracy"]
    assert whole["margins"] == small["margins"]
    assert table("--limit", "7")["pairs"] == 7
    assert table("--split", "test_unique")["by_split"] == {"test_unique": 20}
    assert table("--seed", "1")["margins"] != whole["margins"]


def test_the_numbers_for_a_sum_are_printed(cli, held_out):
    """Brighter scores 8 * mean: its spread is 8 times that of the means under one prompt."""
    found = pairs([(1, 0), (0, 3)], [1.0, 0.0])
    found.write(held_out / "pairs")
    done = evaluated(cli, "--timesteps", "finished")
    assert f"for reward sum: mean = 8, std = {8 * np.sqrt((1 + 9) / 2 / 2):.4g}" in done.out


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--reward", "brigter"], 2, 'unknown reward "brigter"; did you mean "brighter"?'),
        (["--reward", "brighter,sgn=1"], 2, '--set reward.sgn is not a setting of brighter; did you mean "sign"?'),
        (["--reward", "brighter", "--reward", "brighter"], 2, "--reward brighter is given twice"),
        (["--reward", "brighter", "--reward", "pixel", "--set", "reward.sign=-1"], 2, "--set reward.sign=-1: which"),
        (["--reward", "constant,space=other"], 2, "reward constant reads latents of other, backbone seeing makes"),
        (["--pairs", "shapes-pairs"], 2, "pairs in"),
        (["--pairs", "nowhere"], 3, "no preference pairs"),
        (["--split", "valid"], 2, "pairs: no labelled pair in the split valid; its splits: test_unique, valid"),
        (["--timesteps", "951,soon"], 2, 'timestep "soon": should be a number from 0 to 999, or finished'),
        (["--timesteps", "1000"], 2, "timestep 1000: should be a whole number from 0 to 999 for seeing"),
        (["--limit", "0"], 2, "Invalid value for '--limit'"),
        (["--reward", "spoilt,value=1", "--pairs", "spoilt"], 4, "reward spoilt gives no pair a finite score"),
        (["--pairs", "ties"], 2, "ties: all 2 pairs are ties, there is no winner to find"),
        (["--set", "train.precision=fp17"], 2, "--set train.precision"),
    ],
)  # fmt: skip
def test_one_line_and_the_documented_code(cli, held_out, words, code, message):
    pairs([(1, 0), (0, 1)], [0.5, 0.5]).write(held_out / "ties")
    pairs([(1, 0), (0, 1)], [1.0, 0.0], captions=["13", "13"]).write(held_out / "spoilt")
    done = cli("reward", "eval", "--pairs", "pairs", "--out", "out", *words)
    lines = [line for line in done.err.splitlines() if not line.startswith(("no built-in", "scoring"))]
    assert len(lines) == 1, done.err
    assert lines[0].startswith(f"error: {message}")
    assert (done.code, done.out) == (code, "")
    assert not (held_out / "out").exists()


def test_out_is_needed_and_must_be_writable(cli, held_out):
    assert cli("reward", "eval").code == 2
    (held_out / "file").write_text("")
    done = cli("reward", "eval", "--pairs", "pairs", "--out", "file/x")
    assert (done.code, done.err.splitlines()[-1][:28]) == (2, "error: cannot write to file/")
