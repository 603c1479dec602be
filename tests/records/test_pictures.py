"""Pictures of finished runs: found by the conditions they were made under, and only while they are whole."""

import json

import pytest
from made_gallery import BASE, EVAL, keep_base, run

from lpobench.records import pictures


@pytest.fixture
def record(tmp_path):
    return run(tmp_path)


def test_a_run_has_its_own_pictures_and_those_of_its_base(tmp_path, record):
    base = keep_base(tmp_path)
    assert pictures.folder_of_base(record) == base
    own = pictures.folder_of_method(record)
    assert own == record.folder / "evaluation"
    known = pictures.noted(own)
    assert sorted(known) == [("p0", 0), ("p1", 0), ("p2", 0)]
    assert pictures.whole(own, ("p0", 0), known["p0", 0]) == (own / "images" / "p0-0.png").read_bytes()


@pytest.mark.parametrize(
    "about",
    [
        {"base": "0" * 32},
        {"prompts_sha256": "1" * 64},
        {"settings": {**EVAL, "seed": 8}},
        {"settings": {**EVAL, "other": 1}},
        {"settings": None},
    ],
)
def test_pictures_of_another_base_are_not_taken(tmp_path, record, about):
    keep_base(tmp_path, **about)
    assert pictures.folder_of_base(record) is None


def test_a_base_whose_description_is_damaged_is_not_found(tmp_path, record):
    about = keep_base(tmp_path) / "about.json"
    for text in ("", "[]", "{"):
        about.write_text(text)
        assert pictures.folder_of_base(record) is None
    about.write_text(json.dumps({"base": BASE}))
    assert pictures.folder_of_base(record) is None


def test_a_changed_or_missing_picture_is_none(record):
    folder = record.folder / "evaluation"
    known = pictures.noted(folder)
    path = pictures.path_of(folder, ("p0", 0))
    path.write_bytes(path.read_bytes() + b"0")
    pictures.path_of(folder, ("p1", 0)).unlink()
    assert [pictures.whole(folder, (name, 0), known[name, 0]) is None for name in ("p0", "p1", "p2")] == [
        True,
        True,
        False,
    ]


def test_a_run_that_made_no_pictures_has_none(tmp_path):
    record = run(tmp_path, trained=False)
    assert record.variant is None
    assert pictures.folder_of_method(record) is None


def test_a_damaged_manifest_says_nothing(record):
    folder = record.folder / "evaluation"
    (folder / "manifest" / "b.jsonl").write_text('{"prompt_id": "p9"')
    (folder / "manifest" / "c.jsonl").write_text('"text"\n')
    assert sorted(pictures.noted(folder)) == [("p0", 0), ("p1", 0), ("p2", 0)]


def test_tasks_take_turns():
    assert pictures.in_turn(["a", "a", "b", "a", "b"]) == [0, 2, 1, 4, 3]
    assert pictures.in_turn([]) == []
