"""Records: whole or absent, readable without torch, and aware of files that changed since."""

import json
import os

import pytest
from made import record

from lpobench.plugin import MissingAsset, UserError
from lpobench.records.record import RunRecord, find_complete, inventory, read_all, run_name, write_atomic


def test_a_record_survives_writing_and_reading(tmp_path):
    written = record().write(tmp_path)
    assert RunRecord.read(tmp_path) == written == RunRecord.read(tmp_path / "record.json")
    assert "folder" not in json.loads((tmp_path / "record.json").read_text())
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "record.json"
    write_atomic(path, "old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(path, "new")
    assert [p.name for p in tmp_path.iterdir()] == ["record.json"]
    assert path.read_text() == "old"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not a run record: no JSON object"),
        ("[]", "is not a run record: no JSON object"),
        ("{}", "is not a run record: no JSON object with a schema_version"),
        ('{"schema_version": 99, "id": "x"}', "schema version 99, this lpobench reads up to 2"),
        ('{"schema_version": 1}', "is not a run record: id: Field required"),
    ],
)
def test_what_is_no_record_is_said(tmp_path, text, message):
    (tmp_path / "record.json").write_text(text)
    with pytest.raises(UserError, match=message):
        RunRecord.read(tmp_path)


def test_no_record(tmp_path):
    assert find_complete(tmp_path) is None
    assert read_all(tmp_path) == []
    with pytest.raises(MissingAsset, match="no record at"):
        RunRecord.read(tmp_path)


def test_complete_means_every_file_is_as_it_was(tmp_path):
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "weights").write_bytes(b"abc")
    (tmp_path / "scores.csv").write_text("x")
    files = inventory(tmp_path, ("scores.csv", "lora", "grid.png"))
    assert list(files) == ["scores.csv", "lora/weights"]
    assert (
        files["lora/weights"] == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )  # FIPS 180
    assert not record(files=files).complete  # in no folder yet
    assert record(files=files).write(tmp_path).complete
    (tmp_path / "scores.csv").write_text("y")
    assert RunRecord.read(tmp_path).damaged() == ["scores.csv"]
    assert find_complete(tmp_path) is None


def test_all_records_below_a_folder(tmp_path):
    for name in ("b", "a"):
        (tmp_path / name).mkdir()
        record(id=name).write(tmp_path / name)
    (tmp_path / "unfinished").mkdir()
    assert [r.id for r in read_all(tmp_path)] == ["a", "b"]


def test_what_changes_a_result_changes_the_folder():
    names = {run_name("id"), run_name("id", 3), run_name("id", 4), run_name("id", None, True)}
    assert names == {"id", "id-limit3", "id-limit4", "id-own-reward"}
