"""One row per image, one column per metric, on images as a PNG would hold them."""

import pandas as pd
import pytest
import torch

from lpobench.scoring.evaluate import metric_columns, metrics_by_column, score_images, to_bytes
from lpobench.types import Metric, Prompt

PROMPTS = [Prompt("a star", "p0", {"task": "colors"}), Prompt("a star", "p0"), Prompt("two stars", "p1")]
IMAGES = torch.tensor([0.0, 0.2, 0.4]).view(3, 1, 1, 1).expand(3, 3, 2, 2)


class Fake:
    """Scores the mean of the red channel, or whatever it is told to."""

    version = "1"

    def __init__(self, *metrics, scores=None):
        self.metrics = {name: Metric(0, 1, True, "", "") for name in metrics}
        self.scores = scores

    def score(self, images, prompts):
        value = images[:, 0].mean((1, 2)).tolist() if self.scores is None else self.scores
        return pd.DataFrame(
            dict.fromkeys([*self.metrics, "not declared"], value), index=range(7, 7 + len(value))
        )


def test_a_row_per_image_and_the_declared_metrics():
    table = score_images("fake", Fake("red"), IMAGES, PROMPTS)
    assert table.columns.tolist() == ["red"]
    assert table.index.tolist() == [0, 1, 2]
    assert table["red"].tolist() == pytest.approx([0, 0.2, 0.4])


def test_a_name_two_evaluators_share_is_qualified():
    evaluators = {"one": Fake("red", "sharp"), "two": Fake("red", "task")}
    assert list(metrics_by_column(evaluators)) == ["one.red", "sharp", "two.red", "two.task"]
    assert metric_columns(evaluators)[("two", "task")] == "two.task"


def test_yes_and_no_become_numbers():
    table = score_images("fake", Fake("right", scores=[True, False, True]), IMAGES, PROMPTS)
    assert table["right"].tolist() == [1.0, 0.0, 1.0]


def test_pixels_are_rounded():
    image = torch.full((1, 3, 2, 2), 0.501)  # 127.755 -> 128
    assert to_bytes(image).flatten().tolist() == [128] * 12


def test_an_evaluator_that_breaks_its_contract_is_named():
    with pytest.raises(RuntimeError, match="evaluator odd gave 2 rows for 3 images"):
        score_images("odd", Fake("red", scores=[1, 2]), IMAGES, PROMPTS)
