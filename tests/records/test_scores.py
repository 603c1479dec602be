"""scores.csv keeps every digit and every text."""

import pandas as pd
import pytest

from lpobench.plugin import MissingAsset, UserError
from lpobench.records.scores import read_scores, write_scores


def table():
    return pd.DataFrame(
        {
            "prompt_id": ["007", "1e3"],
            "image": [0, 1],
            "prompt": ["NA", 'a "red", star\nabove'],
            "task": ["", "null"],
            "score": [0.1 + 0.2, 1 / 3],
        }
    )


def test_what_was_written_is_read(tmp_path):
    write_scores(table(), tmp_path / "scores.csv")
    pd.testing.assert_frame_equal(read_scores(tmp_path / "scores.csv", ["score"]), table(), check_dtype=False)
    assert read_scores(tmp_path / "scores.csv", ["score"])["score"].tolist() == [0.1 + 0.2, 1 / 3]


def test_what_cannot_be_read_is_said(tmp_path):
    path = tmp_path / "scores.csv"
    with pytest.raises(MissingAsset, match="no scores at"):
        read_scores(path, ["score"])
    write_scores(table(), path)
    with pytest.raises(UserError, match="no column 'other'; columns: prompt_id, image, prompt, task, score"):
        read_scores(path, ["other"])
    with pytest.raises(UserError, match="cannot be read as scores: could not convert string to float: 'NA'"):
        read_scores(path, ["prompt"])
