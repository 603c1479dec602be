"""The folders of runs: their states, and what is damaged."""

import json

import pytest
from made import record, seed_run
from make_records import Maker

from lpobench.lock import holder, run_lock
from lpobench.records.prompt_scores import ScoreReader
from lpobench.records.record import RunRecord, read_all
from lpobench.records.shelf import problems, shelved


@pytest.fixture
def run(tmp_path) -> RunRecord:
    return Maker(tmp_path, 12).run("tiny")


def test_states(tmp_path, run):
    for name in ("cache", "sweeps", "notes", "begun/checkpoints/step-00000050", "fresh", "eval"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "fresh" / ".lock").touch()
    (tmp_path / "eval" / ".lock").touch()
    (tmp_path / "eval" / "evaluation.json").touch()
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "record.json").write_text('{"schema_version":')
    found = {one.name: one for one in shelved(tmp_path)}
    states = {name: (one.state, one.update) for name, one in found.items()}
    assert states == {
        "begun": ("unfinished", 50),
        "fresh": ("unfinished", None),
        "tiny": ("complete", None),
        "torn": ("unreadable", None),
    }
    assert "is not a run record" in found["torn"].problem
    assert found["tiny"].record == run
    assert found["tiny"].size == sum(path.stat().st_size for path in run.folder.iterdir())


def test_a_whole_run_has_no_problem(run):
    assert problems(run, ScoreReader()) == []


def test_changed_and_missing_files_are_named(run):
    (run.folder / "scores.csv").write_text("x")
    (run.folder / "metrics.jsonl").unlink()
    assert problems(run, ScoreReader()) == ["scores.csv is changed", "metrics.jsonl is missing"]


def test_means_that_the_scores_do_not_have_are_found(run):
    document = json.loads((run.folder / "record.json").read_text())
    document["metrics"]["lrm"]["mean_method"] += 0.01
    (run.folder / "record.json").write_text(json.dumps(document))
    edited = RunRecord.read(run.folder)
    assert problems(edited, ScoreReader()) == ["record.json has another mean of lrm than its scores"]


def test_scores_that_cannot_be_read_are_a_problem(tmp_path):
    run = seed_run(tmp_path, 0, [1, 0], [0, 0])
    (run.folder / "scores.csv").write_text("variant\n")
    assert "cannot be read as scores" in problems(run, ScoreReader())[0]


def test_what_cannot_be_read_is_named_and_left_out(tmp_path, run, capsys):
    for name, text in (
        ("half", '{"schema_version": 1, "id":'),
        ("later", '{"schema_version": 99}'),
        ("list", "[1]"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "record.json").write_text(text)
    (tmp_path / "bytes").mkdir()
    (tmp_path / "bytes" / "record.json").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "folder" / "record.json").mkdir(parents=True)
    assert read_all(tmp_path) == [run]
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 5
    assert all(line.startswith("left out: ") for line in told)
    assert any(
        "later/record.json has schema version 99, this lpobench reads up to 2; upgrade" in t for t in told
    )
    assert any("bytes/record.json is not a run record: no text" in line for line in told)
    assert any("no record at" in line and "folder" in line for line in told)


@pytest.mark.parametrize("copy", ["a-copy", "z-copy"])
def test_of_a_run_and_its_copy_the_run_is_kept(tmp_path, run, copy, capsys):
    (tmp_path / copy).mkdir()
    record(id="tiny").write(tmp_path / copy)
    assert [found.folder.name for found in read_all(tmp_path)] == ["tiny"]
    assert f"{copy} is run tiny again, as in {tmp_path / 'tiny'}" in capsys.readouterr().err


def test_who_works_in_a_folder(tmp_path):
    assert holder(tmp_path) is None
    with run_lock(tmp_path):
        assert holder(tmp_path).startswith("process ")
    assert holder(tmp_path) is None
