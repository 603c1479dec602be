"""The LRM shipped for tiny-sd15: what its training recipe measured on held-out prompts."""

import numpy as np
import pytest

from rewards.lrm import LRM


@pytest.fixture(scope="module")
def config():
    return LRM().config


def accuracy(config, split: str, column: str) -> np.ndarray:
    return np.array([row[column] for row in config.accuracy[split]])


@pytest.mark.parametrize("split", ["validation_unique", "test_unique"])
def test_it_agrees_with_the_true_preference(config, split):
    """At least 72 % of pairs at t = 1, the last of the grid, and 64 % averaged over the 20 timesteps."""
    right = accuracy(config, split, "accuracy_true")
    assert len(right) == 20
    assert right[-1] >= 0.72
    assert right.mean() >= 0.64


def test_its_files_are_shipped(config):
    assert (config.backbone, config.vfe_scale) == ("tiny-sd15", 7.5)
    assert all(path.is_file() for path in LRM().assets().values())
