"""The judge behind the evaluator's contract."""

import numpy as np
import pytest
import torch

from evaluators.shapes import Shapes
from lpobench.data.shapes.judge import judge
from lpobench.data.shapes.render import draw
from lpobench.data.shapes.scene import parse
from lpobench.plugin import UserError
from lpobench.types import Prompt


def test_scores_are_the_judges():
    picture = draw(parse("two red stars"), np.random.default_rng(0))
    images = torch.from_numpy(picture).permute(2, 0, 1)[None].repeat(2, 1, 1, 1)
    scores = Shapes().score(images, [Prompt("two red stars", "a"), Prompt("two blue stars", "b")])
    assert scores["correct"].tolist() == [1.0, 0.0]
    assert scores["preference"].tolist() == pytest.approx(
        [judge(parse(text), picture).preference for text in ("two red stars", "two blue stars")]
    )


def test_foreign_prompts_and_sizes_are_refused():
    with pytest.raises(UserError, match='not a shapes-world prompt: "a cat"'):
        Shapes().score(torch.rand(1, 3, 64, 64), [Prompt("a cat", "a")])
    with pytest.raises(UserError, match="64x64 images of shapes world, got 32x32"):
        Shapes().score(torch.rand(1, 3, 32, 32), [Prompt("a star", "a")])
