"""What a run spends its time on: a denoiser call, a decode, scores, a round, an update."""

import pytest
import torch

from lpobench.timing.released import ReleasedWay, reference_of
from lpobench.timing.rewards import Choice
from lpobench.timing.stopwatch import waited_clock
from lpobench.timing.workload import noise, prompts

pytestmark = pytest.mark.benchmark(timer=waited_clock)
PROMPTS, CANDIDATES = 2, 4


@pytest.fixture(scope="module")
def choice(load):
    return Choice.of(load.policy, PROMPTS, CANDIDATES)


@pytest.fixture(scope="module")
def rows(load):
    train = load.spec.train
    return load.rows(train.minibatch * train.gradient_accumulation)


def test_encode_prompts(timed, load):
    texts = prompts(8)
    timed(lambda: load.backbone.encode_prompt(texts))


@torch.no_grad()
def test_guided_denoising_step(timed, choice):
    timed(choice.step)


@torch.no_grad()
def test_decode(timed, load):
    latents = noise(PROMPTS, load.backbone)
    timed(lambda: load.backbone.decode(latents))


@torch.no_grad()
def test_score_candidates(timed, load, choice):
    timed(lambda: load.reward.reward.score(choice.noisy(CANDIDATES)))


def test_round(timed, load):
    timed(load.collect)


def test_update(timed, load, rows):
    timed(load.update(rows))


def test_round_released_way(timed, load):
    timed(ReleasedWay(load).collect)


def test_update_released_way(timed, load, rows):
    timed(ReleasedWay(load).update(reference_of(load.policy, load.spec), rows))
