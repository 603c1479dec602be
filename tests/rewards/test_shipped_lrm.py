"""The LRMs shipped for the embedded backbones, measured here on the shipped held-out pairs."""

import pandas as pd
import pytest
import torch

from lpobench import registry
from lpobench.data.pairs import LatentPairs
from lpobench.data.shipped import shipped
from rewards.accuracy import accuracy_by_timestep
from rewards.lrm import LRM, folder
from rewards.lrm.pairwise import grid, pair_scorer

BACKBONES = ("tiny-sd15", "tiny-sdxl", "tiny-sd3")
HELD_OUT = {"validation_unique": 10, "test_unique": 19}
"""Held-out split -> which of the 20 timesteps is measured again."""


@pytest.fixture(params=BACKBONES)
def recorded(request):
    """Split -> accuracy at each of the 20 timesteps on its 500 pairs, as the folder says."""
    found = LRM(backbone=request.param).config.accuracy
    tables = {name: pd.DataFrame(rows) for name, rows in found.items()}
    assert tables["test_unique"]["t"].tolist() == pytest.approx(grid(schedule_of(request.param)).tolist())
    return tables


def schedule_of(name):
    return registry.get("backbones", name)().load(torch.device("cpu"), torch.float32).schedule


def test_it_agrees_with_the_true_preference(recorded):
    """At least 72 % of the 1,000 held-out pairs at the last timestep of the grid, and 64 % over all of them."""
    right = sum(recorded[name]["accuracy_true"] * recorded[name]["n_true"] for name in HELD_OUT)
    right = right / sum(recorded[name]["n_true"] for name in HELD_OUT)
    assert right.iloc[-1] >= 0.72
    assert right.mean() >= 0.64


def test_the_split_that_chose_no_checkpoint_agrees_too(recorded):
    """validation_unique picked the checkpoint; on test_unique a standard error (0.02) is allowed for."""
    assert recorded["test_unique"]["accuracy_true"].iloc[-1] >= 0.70
    assert recorded["test_unique"]["accuracy_true"].mean() >= 0.64


@pytest.mark.parametrize("name", BACKBONES)
def test_its_record_says_what_is_measured(name):
    """At one timestep per split, with the recipe's noise; another machine's rounding may turn 2 of 500 pairs."""
    settings, schedule = LRM(backbone=name), schedule_of(name)
    pairs = LatentPairs.read(shipped("shapes-pairs"), "tiny-vae-f8c8")
    scorer = pair_scorer(folder.load(settings.folder).eval(), schedule)
    for split, number in HELD_OUT.items():
        t = grid(schedule)[number : number + 1]
        (row,) = accuracy_by_timestep(scorer, t, pairs.split(split), seed=number).to_dict("records")
        assert row == pytest.approx(settings.config.accuracy[split][number], abs=0.004)


@pytest.mark.parametrize("name", BACKBONES)
def test_its_files_are_shipped(name):
    settings = LRM(backbone=name)
    assert (settings.config.backbone, settings.config.vfe_scale) == (name, 7.5)
    assert all(path.is_file() for path in settings.assets().values())
