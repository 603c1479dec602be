"""The mean score of a round, in every line of its updates."""

import math
from types import SimpleNamespace

import pytest
import torch

from tests.toy_training import Toy, make_context, run

SCORES = ([[1.0, 2.0, 10.0], [3.0, 4.0, math.nan]], [[5.0], [6.0]])
"""Of two calls: two candidates each, of three prompts and of one. The third prompt's are not all finite."""


class FirstRoundScored(Toy):
    def collect(self, ctx):
        for scores in SCORES if ctx.round == 0 else ():
            ctx.score(torch.tensor(scores), num=2)
        return super().collect(ctx)


class UpdatesScored(Toy):
    def loss(self, ctx, rows):
        ctx.score(rows.x[:, 0])
        return super().loss(ctx, rows)


def context(seen: list[torch.Tensor]):
    ctx = make_context()
    ctx.reward = SimpleNamespace(score=lambda scores: seen.append(scores) or scores.flatten())
    return ctx


def test_of_the_groups_that_are_finite_until_others_are_scored(tmp_path):
    lines = run(tmp_path, FirstRoundScored(), context([])).lines
    assert [line["reward"] for line in lines] == [pytest.approx((2 + 3 + 5.5) / 3)] * 6


def test_of_an_update_that_scores(tmp_path):
    seen = []
    lines = run(tmp_path, UpdatesScored(), context(seen)).lines
    assert [line["reward"] for line in lines] == pytest.approx([x.mean().item() for x in seen])
    assert len({line["reward"] for line in lines}) == 6
