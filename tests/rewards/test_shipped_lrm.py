"""The LRM shipped for tiny-sd15, measured here on the shipped held-out pairs."""

from pathlib import Path

import pytest
import torch

from backbones.tiny import TinySD15
from lpobench.data.pairs import LatentPairs
from rewards.lrm import LRM, folder
from rewards.lrm.pairwise import accuracy_by_timestep

HELD_OUT = ("validation_unique", "test_unique")


@pytest.fixture(scope="module")
def tables():
    """Accuracy at each of the 20 timesteps on the 500 pairs of each held-out split; all prompts are held out."""
    backbone = TinySD15().load(torch.device("cpu"), torch.float32)
    pairs = LatentPairs.read(Path(LRM().pair_sources()[0]), backbone.latent_space)
    model = folder.load(LRM().folder).eval()
    return {name: accuracy_by_timestep(model, backbone.schedule, pairs.split(name)) for name in HELD_OUT}


def test_it_agrees_with_the_true_preference(tables):
    """At least 72 % of the 1,000 held-out pairs at t = 1, the last of the grid, and 64 % over all timesteps."""
    right = sum(table["accuracy_true"] * table["n_true"] for table in tables.values())
    right = right / sum(table["n_true"] for table in tables.values())
    assert tables["test_unique"]["t"].tolist() == list(range(951, 0, -50))
    assert right.iloc[-1] >= 0.72
    assert right.mean() >= 0.64


def test_the_split_that_chose_no_checkpoint_agrees_too(tables):
    """validation_unique picked the checkpoint; on test_unique a standard error (0.02) is allowed for."""
    assert tables["test_unique"]["accuracy_true"].iloc[-1] >= 0.70
    assert tables["test_unique"]["accuracy_true"].mean() >= 0.64


@pytest.mark.parametrize("split", HELD_OUT)
def test_its_record_says_what_is_measured(tables, split):
    recorded = LRM().config.accuracy[split]
    for column in ("accuracy", "accuracy_true"):
        mean = sum(row[column] for row in recorded) / len(recorded)
        assert tables[split][column].mean() == pytest.approx(mean, abs=0.005)


def test_its_files_are_shipped():
    assert (LRM().config.backbone, LRM().config.vfe_scale) == ("tiny-sd15", 7.5)
    assert all(path.is_file() for path in LRM().assets().values())
