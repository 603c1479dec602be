"""`lpobench data inspect` and `prompts` as a user meets them."""

import json
import sys
from pathlib import Path

import pytest
from processes import worked

sys.path.append(str(Path(__file__).parent.parent / "data"))
import make_pickapic


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("set")
    make_pickapic.write(folder, 30, held_out=2, damaged={"no caption": 1, "broken jpeg": 1})
    return folder


def test_inspect_prints_a_table_and_tells_what_is_wrong(cli, folder, tmp_path):
    done = cli("data", "inspect", str(folder), "--out", str(tmp_path / "grid.png"), "--samples", "4")
    assert done.code == 0
    assert "34, of which 32 can be used" in done.out
    assert "train 28, validation_unique 2, test_unique 2" in done.out
    assert "left out: 1 row: caption is missing" in done.err
    assert "left out: 1 row: an image cannot be decoded" in done.err
    assert (tmp_path / "grid.png").stat().st_size > 1000


def test_inspect_gives_one_document(cli, folder):
    done = cli("data", "inspect", str(folder), "--split", "train", "--json")
    document = json.loads(done.out)
    assert (document["rows"], document["usable"]) == (30, 28)
    assert {entry["reason"] for entry in document["bad_rows"]} == {
        "caption is missing",
        "an image cannot be decoded",
    }


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("inspect", "{folder}", "--out", "grid.jpg"), 2, "--out should end in .png"),
        (("inspect", "{folder}", "--split", "dev"), 2, 'has no split "dev"; it has train'),
        (("inspect", "{folder}/none.parquet"), 3, "no preference pairs at"),
        (("inspect", "{folder}", "--scores", "{folder}"), 3, "no scores in"),
        (("prompts", "nothing"), 2, 'unknown prompts "nothing"'),
        (("prompts", "shapes", "--out", "a.txt"), 2, "--out should end in .jsonl"),
    ],
)
def test_what_cannot_be_done_is_one_line(cli, folder, words, code, message):
    done = cli("data", *(word.format(folder=folder) for word in words))
    assert done.code == code
    assert message in done.err.splitlines()[-1]


def test_prompts_are_counted_compared_and_written(cli, tmp_path):
    file = tmp_path / "mine.jsonl"
    done = cli("data", "prompts", "shapes", "--num", "40", "--out", str(file), "--json")
    found = json.loads(done.out)
    assert (found["prompts"], found["published_training_list"]) == (40, None)
    assert sum(found["tasks"].values()) == 40
    done = cli("data", "prompts", str(file), "--against", str(file), "--json")
    again = json.loads(done.out)
    assert (again["shared"], again["tasks"], again["published_training_list"]) == (40, found["tasks"], False)
    assert "known of it: its md5 begins with d6df5051" in cli("data", "prompts", str(file)).out


def test_looking_at_parquet_needs_no_torch(folder):
    code = (
        "import sys; from lpobench.cli import main;"
        f"assert main(['data', 'inspect', {str(folder)!r}]) == 0; sys.exit('torch' in sys.modules)"
    )
    worked(["-c", code])
