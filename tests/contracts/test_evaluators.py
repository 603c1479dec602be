"""What every registered evaluator keeps. One that needs weights adds a line to `SMALL`: small random ones."""

import made_compbench
import made_geneval_scorer
import made_mask2former
import made_scorers
import pandas as pd
import pytest
import torch

import evaluators.geneval.detector
from evaluators.geneval.settings import GenEvalFAIR
from evaluators.t2i_compbench.settings import T2ICompBench
from lpobench import registry
from lpobench.data.prompts import load_prompts
from lpobench.types import Evaluator

SMALL = {
    **made_scorers.MAKERS,
    "geneval": made_geneval_scorer.geneval,
    "t2i_compbench": made_compbench.compbench,
}
UNMADE = {"geneval_fair": GenEvalFAIR}
"""Presets of one that is made, with another file's layout."""


@pytest.fixture(params=[name for name in registry.names("evaluators") if name not in UNMADE])
def settings(request, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluators.geneval.detector, "SCALE", made_mask2former.SCALE)
    make = SMALL.get(request.param)
    return make(tmp_path) if make else registry.get("evaluators", request.param)()


@pytest.fixture
def evaluator(settings):
    return settings.load(torch.device("cpu"), torch.float32)


@pytest.fixture
def case(settings):
    """Three images and prompts; of the suite an evaluator is for, if it is for one."""
    images = torch.randint(256, (3, 3, 64, 64), generator=torch.Generator().manual_seed(0)) / 255
    if isinstance(settings, T2ICompBench):
        return images, made_compbench.prompts()[:3]
    return images, load_prompts(settings.suite or "shapes", "eval", 3, seed=0)


def test_keeps_the_contract(evaluator, case):
    assert isinstance(evaluator, Evaluator)
    assert evaluator.version
    scores = evaluator.score(*case)
    assert list(scores.columns) == list(evaluator.metrics)
    for name, metric in evaluator.metrics.items():
        assert scores[name].between(metric.low, metric.high).all()
        assert metric.unit
        assert metric.source


def test_rows_are_independent_and_keep_their_order(evaluator, case):
    images, texts = case
    whole = evaluator.score(images, texts)
    single = pd.concat(
        [evaluator.score(images[i : i + 1], texts[i : i + 1]) for i in range(3)], ignore_index=True
    )
    pd.testing.assert_frame_equal(whole, single, rtol=1e-5, atol=1e-6)
    backwards = evaluator.score(images.flip(0), texts[::-1])
    pd.testing.assert_frame_equal(whole, backwards[::-1].reset_index(drop=True), rtol=1e-5, atol=1e-6)


def test_its_files_are_there(settings):
    assert all(path.exists() for path in settings.assets().values())
