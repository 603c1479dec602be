"""The real thing: `lpobench run --gpus 2` on the embedded model, two processes on the CPU, against one process."""

import io
import json
from contextlib import redirect_stdout

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from processes import ended, started

from lpobench.cli import main

SETTINGS = {
    "device": "cpu",
    "method.min_gap": [0.0, 0.0],
    "method.beta": 1.0,  # kernels round otherwise for another batch shape: beta and guidance make it larger
    "sampling.guidance_scale": 1.0,
    "sampling.num_steps": 3,
    "train.prompts_per_round": 4,
    "train.minibatch": 8,
    "train.learning_rate": 1e-4,
    "eval.num_steps": 3,
    "eval.bootstrap_samples": 50,
}
WORDS = ["run", "--backbone", "tiny-sd15", "--method", "lpo", "--limit", "2", "--json"]
WORDS += [word for key, value in SETTINGS.items() for word in ("--set", f"{key}={json.dumps(value)}")]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folder and record of the same run in one process, which is this one, and in two; and what the two said."""
    alone, shared = (tmp_path_factory.mktemp(name) for name in ("one", "two"))
    with started(["-m", "lpobench", *WORDS, "--out", shared, "--gpus", 2]) as process:
        with redirect_stdout(io.StringIO()) as document:
            assert main([*WORDS, "--out", str(alone)]) == 0
        two = ended(process)
    assert two.returncode == 0, two.stderr
    records = json.loads(document.getvalue()), json.loads(two.stdout)
    folders = [next(out.glob("tiny-*")) for out in (alone, shared)]
    return *zip(folders, records, strict=True), two.stderr


def test_the_loss_trajectory_is_the_same(runs):
    (one, record), (two, shared), _ = runs
    assert (record["processes"], shared["processes"]) == (1, 2)
    lines = [
        pd.read_json(folder / "metrics.jsonl", lines=True).drop(columns="seconds") for folder in (one, two)
    ]
    assert len(lines[0]) == 2
    assert lines[0]["loss"].nunique() == 2  # it moved
    pd.testing.assert_series_equal(*(frame["loss"] for frame in lines), rtol=0, atol=1e-6)
    pd.testing.assert_frame_equal(*lines, rtol=1e-5, atol=1e-5)


def test_the_images_are_the_same(runs):
    """Up to one of 255 levels, where rounding of another batch shape falls on the edge of two."""
    grids, tables = [], []
    for folder, _ in runs[:2]:
        grids.append(np.asarray(Image.open(folder / "grid.png").convert("RGB"), dtype=int))
        tables.append(pd.read_csv(folder / "scores.csv"))
    assert np.abs(grids[0] - grids[1]).max() <= 1
    pd.testing.assert_frame_equal(*tables, rtol=1e-4, atol=1e-4)


def test_two_processes_speak_with_one_voice(runs):
    """One JSON document on stdout, each line of talk once."""
    talk = runs[2].splitlines()
    assert sum(line.startswith("training 2/2") for line in talk) == 1
    assert sum(line.startswith("images of lpo") for line in talk) == 1
