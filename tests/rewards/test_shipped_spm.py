"""The SPM shipped for tiny-sd15, measured here on shipped held-out pairs."""

from functools import partial

import pytest
import torch

from backbones.tiny import TinySD15
from lpobench.data.pairs import LatentPairs
from lpobench.data.shipped import shipped
from lpobench.sampling import Policy
from rewards.accuracy import evaluate
from rewards.pair_scorer import PairScorer
from rewards.spm import SPM, folder
from rewards.spm.estimates import Guided, pair_scores

NUM = 75
HELD_OUT = ("validation_unique", "test_unique")


@pytest.fixture(scope="module")
def right():
    """Share of right verdicts by truth at t = 1, on 75 pairs of each held-out split."""
    backbone, model = TinySD15().load(torch.device("cpu"), torch.float32), folder.load(SPM().place).eval()
    policy = Policy(backbone, Guided(SPM().config.training["guidance_scale"]))
    scorer = PairScorer(model, partial(pair_scores, model, policy), num_noises=1)
    pairs, t = LatentPairs.read(shipped("shapes-pairs"), backbone.latent_space), torch.ones(NUM)
    parts = [pairs.split(name).take(torch.arange(NUM).numpy()) for name in HELD_OUT]
    return sum(evaluate(scorer, part, t, seed=7)["true"].mean() for part in parts) / len(parts)


def test_it_agrees_with_the_true_preference_at_low_noise(right):
    """60 % of 150 pairs is 2.4 standard errors above chance; its record says 65 % of all 1,000."""
    assert right >= 0.6
    last = [SPM().measured()[split][-1]["accuracy_true"] for split in HELD_OUT]
    assert sum(last) / len(last) >= 0.64


def test_its_record_says_what_is_measured(right):
    """The record is over 500 pairs of each split: three standard errors of 150 pairs (0.04 each)."""
    last = [SPM().measured()[split][-1]["accuracy_true"] for split in HELD_OUT]
    assert right == pytest.approx(sum(last) / len(last), abs=0.12)


def test_its_table_has_the_timesteps_of_the_lrms():
    assert [row["t"] for row in SPM().measured()["test_unique"]] == list(range(951, 0, -50))


def test_its_files_are_shipped():
    assert (SPM().config.backbone, SPM().config.is_flow) == ("tiny-sd15", False)
    assert all(path.is_file() for path in SPM().assets().values())
    assert sum(path.stat().st_size for path in SPM().place.rglob("*") if path.is_file()) < 6e6
