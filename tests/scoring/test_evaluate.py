"""One row per image, one column per metric, on images as a PNG would hold them."""

import pandas as pd
import pytest
import torch

from lpobench.scoring.evaluate import evaluate, metric_columns, metrics_by_column, to_bytes
from lpobench.scoring.generate import Batch
from lpobench.types import Metric, Prompt

PROMPTS = [Prompt("a star", "p0", {"task": "colors"}), Prompt("two stars", "p1")]


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


def batches():
    red = torch.tensor([0.0, 0.2, 0.4, 0.6]).view(4, 1, 1, 1).expand(4, 3, 2, 2)
    yield Batch([PROMPTS[0]] * 2 + [PROMPTS[1]], [0, 1, 0], red[:3])
    yield Batch([PROMPTS[1]], [1], red[3:])


def test_rows_and_columns():
    """0.2 * 255 = 51, 0.4 * 255 = 102, 0.6 * 255 = 153: exact in 8 bits."""
    table = evaluate({"fake": Fake("red")}, batches()).table
    assert table.columns.tolist() == ["prompt_id", "image", "prompt", "task", "red"]
    assert table["prompt_id"].tolist() == ["p0", "p0", "p1", "p1"]
    assert table["image"].tolist() == [0, 1, 0, 1]
    assert table["task"].tolist() == ["colors", "colors", "", ""]
    assert table["red"].tolist() == pytest.approx([0, 0.2, 0.4, 0.6])


def test_a_name_two_evaluators_share_is_qualified():
    evaluators = {"one": Fake("red", "sharp"), "two": Fake("red", "task")}
    assert list(metrics_by_column(evaluators)) == ["one.red", "sharp", "two.red", "two.task"]
    assert metric_columns(evaluators)[("two", "task")] == "two.task"
    table = evaluate(evaluators, batches()).table
    assert table.columns.tolist()[4:] == ["one.red", "sharp", "two.red", "two.task"]


def test_yes_and_no_become_numbers():
    table = evaluate({"fake": Fake("right", scores=[True, False, True])}, list(batches())[:1]).table
    assert table["right"].tolist() == [1.0, 0.0, 1.0]


def test_scores_are_of_rounded_images():
    image = torch.full((1, 3, 2, 2), 0.501)  # 127.755 -> 128
    table = evaluate({"fake": Fake("red")}, [Batch(PROMPTS[:1], [0], image)]).table
    assert table["red"].item() == pytest.approx(128 / 255, abs=1e-6)
    assert to_bytes(image).flatten().tolist() == [128] * 12


def test_the_first_image_of_a_chosen_prompt_is_kept():
    pictures = evaluate({"fake": Fake("red")}, batches(), keep={"p1"}).pictures
    assert list(pictures) == ["p1"]
    assert pictures["p1"].shape == (2, 2, 3)
    assert (pictures["p1"] == 102).all()


def test_an_evaluator_that_breaks_its_contract_is_named():
    with pytest.raises(RuntimeError, match="evaluator odd gave 2 rows for 3 images"):
        evaluate({"odd": Fake("red", scores=[1, 2])}, batches())
    with pytest.raises(RuntimeError, match="evaluator odd: red is not finite"):
        evaluate({"odd": Fake("red", scores=[1, float("nan"), 2])}, batches())
