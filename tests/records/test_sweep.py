"""Sweeps: written whole, read again, and named where they cannot be."""

import json
from datetime import UTC, datetime

import pytest

from lpobench.plugin import MissingAsset, UserError
from lpobench.records.sweep import Axis, Cell, Sweep, read_sweeps


def sweep(**changes) -> Sweep:
    cells = [
        Cell(
            label=label, values={"reward.training.mpcf": label}, seed=seed, run=f"r{label}{seed}", command="c"
        )
        for label in ("none", "2")
        for seed in (0, 1)
    ]
    values = {"id": "mpcf-01234567", "name": "mpcf", "title": "filter", "baseline": "none", "command": "c"}
    axes = (Axis(key="reward.training.mpcf", label="mpcf"),)
    times = {"started": datetime(2026, 1, 2, tzinfo=UTC)}
    return Sweep(**values | times | {"axes": axes, "seeds": (0, 1), "cells": tuple(cells)} | changes)


def test_a_sweep_survives_writing_and_reading(tmp_path):
    written = sweep().write(tmp_path / "sweeps" / "mpcf-01234567")
    assert read_sweeps(tmp_path) == [written]
    assert written.baseline == "none"  # a label, not a null
    assert written.labels == ("none", "2")
    assert [cell.seed for cell in written.of("2")] == [0, 1]
    assert Sweep.read(written.folder).finished is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no sweep: no JSON object with a schema_version"),
        ("[]", "is no sweep: no JSON object"),
        ('{"schema_version": 99}', "has schema version 99, this lpobench reads up to 1; upgrade"),
        ('{"schema_version": 1, "id": "x"}', "is no sweep: name: Field required"),
    ],
)
def test_a_damaged_one_is_named_and_left_out(tmp_path, capsys, text, message):
    sweep().write(tmp_path / "sweeps" / "good")
    bad = tmp_path / "sweeps" / "bad"
    bad.mkdir()
    (bad / "sweep.json").write_text(text)
    assert [found.folder.name for found in read_sweeps(tmp_path)] == ["good"]
    told = capsys.readouterr().err
    assert told.startswith(f"left out: {bad / 'sweep.json'} ")
    assert message in told
    with pytest.raises(UserError, match=r"sweep\.json"):
        Sweep.read(bad)


def test_none_at_all(tmp_path):
    assert read_sweeps(tmp_path) == []
    with pytest.raises(MissingAsset, match="`lpobench ablate` writes one"):
        Sweep.read(tmp_path)


def test_a_cell_is_planned_until_it_is_something_else():
    document = json.loads(sweep().model_dump_json())["cells"][0]
    assert (document["state"], document["error"], document["log"]) == ("planned", None, None)
