from types import SimpleNamespace

import pytest
import tiny_unet
import torch

from rewards.lrm import LRM
from rewards.pixel import Pixel
from rewards.random import RandomReward
from rewards.shuffled import ShuffledReward, num_prompts


class MeanReward:
    """Scores a latent by its mean."""

    latent_space = tiny_unet.LATENT_SPACE

    def score(self, noisy):
        return noisy.latents.mean((1, 2, 3))


def test_each_prompt_keeps_its_scores():
    """4 candidates of 3 prompts, candidate-major: a column is a fork, its multiset of scores must survive."""
    noisy = tiny_unet.noisy(["red", "blue", "a star"] * 4)
    plain = MeanReward().score(noisy).view(4, 3)
    shuffled = ShuffledReward(MeanReward(), seed=0).score(noisy).view(4, 3)
    assert torch.equal(plain.sort(0).values, shuffled.sort(0).values)
    assert not torch.equal(plain, shuffled)


def test_the_same_rows_score_the_same_and_seeds_differ():
    noisy = tiny_unet.noisy(["red", "blue"] * 8)
    first, again, other = (ShuffledReward(MeanReward(), seed).score(noisy) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_signal_is_gone():
    """600 forks of 4: the covariance of true and shuffled score inside a fork has mean 0.

    Per fork the mean product of two permuted unit-variance scores has variance 1 / (k - 1) = 1/3, so over 600
    forks the standard error is 0.024.
    """
    noisy = tiny_unet.noisy([str(i) for i in range(600)] * 4)
    plain, shuffled = (
        (scores - scores.mean(0)) / scores.std(0, correction=0)
        for reward in (MeanReward(), ShuffledReward(MeanReward(), seed=0))
        for scores in [reward.score(noisy).view(4, 600)]
    )
    assert (plain * shuffled).mean().abs() < 4 * 0.024


@pytest.mark.parametrize(
    ("prompts", "expected"),
    [(["a"], 1), (["a"] * 4, 1), (["a", "b"] * 3, 2), (["a", "b", "a"] * 2, 3), (["a", "b", "c"], 3)],
)
def test_number_of_prompts_is_the_period(prompts, expected):
    assert num_prompts(prompts) == expected


def test_one_candidate_keeps_its_score():
    noisy = SimpleNamespace(latents=torch.randn(2, 4, 8, 8), t=torch.ones(2), prompts=["a", "b"])
    assert torch.equal(ShuffledReward(MeanReward(), 0).score(noisy), MeanReward().score(noisy))


def test_any_reward_can_be_shuffled_and_runs_of_the_lrm_keep_their_id():
    """An LRM is written without a name, as before there was a choice."""
    plain, other = RandomReward(), RandomReward(base={"name": "pixel", "metric": "preference"})
    assert plain.model_dump(mode="json") == {"base": LRM().model_dump(mode="json"), "seed": 0}
    assert (plain.version, plain.latent_space) == (LRM().version, LRM().latent_space)
    assert other.base == Pixel(metric="preference")
    assert other.latent_space is None
    for reward in (plain, other, RandomReward(base={"vfe_scale": 3.0})):
        assert RandomReward.model_validate_json(reward.model_dump_json()) == reward
