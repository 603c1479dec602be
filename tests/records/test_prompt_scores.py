"""Scores by prompt: the same numbers as the slow reader's, whatever is in a prompt, and nothing of another run."""

import pandas as pd
import pytest
from made import paired, record

from lpobench.hashing import file_sha256
from lpobench.plugin import MissingAsset, UserError
from lpobench.records.prompt_scores import ScoreReader
from lpobench.records.scores import read_scores, write_scores

PROMPTS = ['a, "b"', "plain", "line\nbreak", "ünïcode", "NA", ""]


def run(folder, prompts=PROMPTS, method="lpo", images=1, shift=0.1, **changes):
    """A run of some prompts, scored by two metrics, one of them a share."""
    folder.mkdir(exist_ok=True)
    rows = []
    for variant in ("none", *([method] if method else [])):
        for place, prompt in enumerate(prompts):
            for image in range(images):
                value = place / 7 + image / 3 + (shift if variant != "none" else 0)
                rows.append((variant, f"id-{9 - place}", image, prompt, "task", value, float(place % 2)))
    columns = ["variant", "prompt_id", "image", "prompt", "task", "light", "correct"]
    write_scores(pd.DataFrame(rows, columns=columns), folder / "scores.csv")
    metrics = {"correct": paired(), "light": paired()}
    about = {"folder": folder, "metrics": metrics, "method": method or "none", "trained": bool(method)}
    return record(**{**about, "files": {"scores.csv": file_sha256(folder / "scores.csv")}, **changes})


@pytest.mark.parametrize("prompts", [PROMPTS, ["a", "b, c", 'd "e"'], ["x"]])
@pytest.mark.parametrize("images", [1, 3])
def test_means_are_those_of_the_table(tmp_path, prompts, images):
    found = ScoreReader().read(run(tmp_path, prompts, images=images))
    table = read_scores(tmp_path / "scores.csv", ["correct", "light"])
    means = table.groupby(["variant", "prompt_id"])[["correct", "light"]].mean()
    assert found.metrics == ("correct", "light")
    assert found.base.ravel() == pytest.approx(means.loc["none"].to_numpy().ravel())
    assert found.method.ravel() == pytest.approx(means.loc["lpo"].to_numpy().ravel())
    first = table.drop_duplicates("prompt_id").sort_values("prompt_id")
    assert (list(found.ids), list(found.texts)) == (first["prompt_id"].to_list(), first["prompt"].to_list())


def test_runs_with_one_base_keep_their_own_numbers(tmp_path):
    reader = ScoreReader()
    one, other = (reader.read(run(tmp_path / name, shift=by)) for name, by in (("a", 0.1), ("b", 0.5)))
    assert (other.method - one.method)[:, 1] == pytest.approx([0.4] * len(PROMPTS))
    assert (one.base == other.base).all()


def test_a_run_without_a_method_is_its_base(tmp_path):
    found = ScoreReader().read(run(tmp_path, method=None))
    assert (found.method == found.base).all()


def test_a_method_whose_name_needs_quotes(tmp_path):
    found = ScoreReader().read(run(tmp_path, method='a,"b"'))
    assert (found.method - found.base)[:, 1] == pytest.approx([0.1] * len(PROMPTS))


def test_what_is_refused(tmp_path):
    made = run(tmp_path)
    path = tmp_path / "scores.csv"
    text = path.read_text()
    path.write_text(text.replace("0.1", "0.2"))
    with pytest.raises(UserError, match="has changed since its run ended"):
        ScoreReader().read(made)
    free = made.model_copy(update={"files": {}})
    for broken, message in (
        ("", "the first rows are not the base's"),
        (text.replace("lpo,", "spo,"), "no rows of lpo"),
        (text.replace("lpo,id-9,0", "lpo,id-8,1"), "base and method have different images"),
        (text.replace(",task,", ",task,x", 1), "cannot be read as scores"),
        (text.rpartition(",")[0] + "\n", "cannot be read as scores"),
        (text.replace("light", "dark"), "'light' is not in list"),
    ):
        path.write_text(broken)
        with pytest.raises(UserError, match=message):
            ScoreReader().read(free)
    path.unlink()
    with pytest.raises(MissingAsset, match="no scores at"):
        ScoreReader().read(made)
