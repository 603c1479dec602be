"""`lpobench reward foresee`, on rewards and evaluators of which it is known how they agree in the end."""

import json

import numpy as np
import pandas as pd
import pytest
from made_judges import judges  # noqa: F401
from PIL import Image

pytestmark = pytest.mark.usefixtures("judges")
LIGHT = (
    "--evaluators",
    "meter,far",
    "--set",
    "eval.prompts=prompts.csv",
    "--set",
    "sampling.guidance_scale=1",
)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with eleven prompts."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.csv").write_text("prompt\n" + "\n".join(f"{n / 10}" for n in range(11)))
    return tmp_path


def foreseen(cli, *words, out="out"):
    done = cli("reward", "foresee", "--out", out, *LIGHT, *words)
    assert done.code == 0, done.err
    return pd.read_csv(f"{out}/foresight.csv").set_index(["metric", "reward", "t"])


def test_who_sees_the_end_who_sees_its_opposite_and_who_sees_nothing(cli, here):
    """Brighter candidates become brighter images, and are less far from white, of which less is better."""
    rewards = ["brighter", "brighter,sign=-1", "constant"]
    found = foreseen(cli, *(word for name in rewards for word in ("--reward", name)), "--every", "6")
    for t in (951, 651, 351, 51):
        best, worst, blind = (found.loc["light", name, t] for name in rewards)
        assert best["accuracy"] > 0.9
        assert worst["accuracy"] == pytest.approx(1 - best["accuracy"])
        assert (blind["accuracy"], blind["gain"]) == (0.5, 0)
        assert 0 < best["gain"] <= best["most"] == worst["most"]
        assert worst["gain"] == pytest.approx(-best["gain"])
        assert 60 < best["pairs"] <= 11 * 6
        assert found.loc["distance", "brighter", t]["accuracy"] == pytest.approx(best["accuracy"])
        own, opposite = (found.loc["brighter,sign=-1, finished", name, t] for name in rewards[1::-1])
        assert own["accuracy"] > 0.9
        assert opposite["accuracy"] == pytest.approx(1 - own["accuracy"])
        assert found.loc["constant, finished", "brighter", t]["pairs"] == 0
    assert sorted(path.name for path in (here / "out").iterdir()) == sorted(
        ["foresight.csv", "summary.json"]
        + [
            f"foresight-{metric}.{kind}"
            for metric in (
                *("bright", "distance", "light"),
                *("brighter-finished", "brighter-sign--1-finished", "constant-finished"),
            )
            for kind in ("png", "svg")
        ]
    )
    with Image.open("out/foresight-light.png") as image:
        assert image.size == (1290, 750)


def test_the_document_and_what_is_printed(cli, here):
    words = ("--reward", "brighter", "--every", "10", "--prompts", "5", "--candidates", "2")
    document = json.loads(cli("reward", "foresee", "--out", "out", *LIGHT, *words, "--json").out)
    assert document == json.loads((here / "out" / "summary.json").read_text())
    assert (document["prompts"], document["num_candidates"]) == (5, 2)
    assert document["evaluators"] == {"meter": "3", "far": "1"}
    assert all(0 < row["pairs"] <= 5 for row in document["foresight"] if row["metric"] == "light")
    shown = cli("reward", "foresee", "--out", "out", *LIGHT, *words).out
    assert "5 prompts (5 texts), 2 candidates a step" in shown
    assert "brighter ranks right" in shown


def test_the_seed_decides(cli, here):
    once, again, other = (
        foreseen(cli, "--every", "9", "--seed", seed, out=out)["gain"]
        for out, seed in zip("abc", "001", strict=True)
    )
    assert once.equals(again)
    assert not np.allclose(once, other)


def test_a_fork_without_a_finite_score_is_left_out(cli, here):
    """Spoilt knows no 13, and ranks the others as brighter does."""
    words = ("--reward", "brighter", "--every", "19")
    without = foreseen(cli, *words)
    (here / "prompts.csv").write_text((here / "prompts.csv").read_text() + "\n13")
    found = foreseen(cli, "--reward", "spoilt", *words).loc["light"]
    assert found.loc["spoilt"].notna().all(axis=None)
    assert (found.loc["spoilt"]["pairs"] <= 11 * 6).all()
    assert (without.loc["light", "brighter"]["accuracy"] > 0.9).all()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "sampling.eta=0"], "sampling.eta 0.0: no step is stochastic"),
        (["--candidates", "1"], "--candidates"),
        (["--evaluators", "meetr"], 'unknown evaluator "meetr"; did you mean "meter"?'),
    ],
)
def test_bad_input(cli, here, words, message):
    done = cli("reward", "foresee", "--out", "out", *LIGHT, *words)
    assert done.code == 2
    assert message in done.err
    assert not (here / "out").exists()
