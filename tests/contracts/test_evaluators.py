"""What every registered evaluator keeps."""

import pandas as pd
import pytest
import torch

from lpobench import registry
from lpobench.data.shapes import prompts
from lpobench.types import Evaluator


@pytest.fixture(params=registry.names("evaluators"))
def evaluator(request):
    return registry.get("evaluators", request.param)().load(torch.device("cpu"), torch.float32)


@pytest.fixture
def case():
    images = torch.rand((3, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    return images, prompts("eval", 3, seed=0)


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
    pd.testing.assert_frame_equal(whole, single)
    backwards = evaluator.score(images.flip(0), texts[::-1])
    pd.testing.assert_frame_equal(whole, backwards[::-1].reset_index(drop=True))
