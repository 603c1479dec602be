"""What every registered reward model keeps. A new one adds a line to `SMALL`: a small one, for tests."""

import pytest
import tiny_unet
import torch

from lpobench import registry
from lpobench.plugin import UserError
from lpobench.sampling.rollout import Noisy
from lpobench.types import RewardModel
from rewards.lrm import LRM, LRMConfig
from rewards.lrm.folder import save
from rewards.lrm.model import LatentRewardModel
from rewards.random import RandomReward

CPU = torch.device("cpu")
SMALL = {
    "lrm": lambda folder: LRM(weights=folder),
    "random": lambda folder: RandomReward(base=LRM(weights=folder)),
}


@pytest.fixture(scope="module")
def backbone():
    return tiny_unet.backbone()


@pytest.fixture(scope="module")
def folder(backbone, tmp_path_factory):
    """An untrained LRM of the test backbone."""
    folder = tmp_path_factory.mktemp("lrm")
    torch.manual_seed(0)
    sizes = {"vfe_scale": 7.5, "feature_dim": 80, "projection_dim": 16}
    config = LRMConfig(backbone=backbone.name, latent_space=backbone.latent_space, **sizes)
    save(LatentRewardModel.from_backbone(backbone, 7.5), folder, config, torch.float32)
    return folder


@pytest.fixture(params=registry.names("rewards"))
def settings(request, folder):
    return SMALL[request.param](folder)


@pytest.fixture
def reward(settings, backbone):
    return settings.load(backbone, CPU, torch.float32)


@pytest.fixture
def noisy(make_policy):
    """Rows of different prompts and noise levels; their policy, of another backbone, is never asked."""

    def make(num: int, *, keep: slice = slice(None)) -> Noisy:
        latents = torch.randn((num, *tiny_unet.LATENT_SHAPE), generator=torch.Generator().manual_seed(0))
        prompts = [f"star {letter}" for letter in "abcdefgh"[:num]]
        return Noisy(latents[keep], torch.linspace(1, 951, num)[keep], prompts[keep], make_policy())

    return make


def test_keeps_the_contract(reward):
    assert isinstance(reward, RewardModel)


def test_one_finite_number_per_row_and_no_gradient(reward, noisy):
    rows = noisy(4)
    rows.latents.requires_grad_(True)
    scores = reward.score(rows)
    assert scores.shape == (4,)
    assert scores.dtype == torch.float32
    assert scores.isfinite().all()
    assert not scores.requires_grad


def test_rows_are_independent(reward, noisy):
    together = reward.score(noisy(2))
    apart = torch.cat([reward.score(noisy(2, keep=slice(i, i + 1))) for i in (0, 1)])
    torch.testing.assert_close(together, apart, atol=1e-4, rtol=1e-4)


def test_scores_are_deterministic_and_latents_untouched(settings, backbone, noisy):
    rows = noisy(4)
    before = rows.latents.clone()
    first, again = (settings.load(backbone, CPU, torch.float32).score(rows) for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(rows.latents, before)


def test_latents_matter(reward, noisy):
    a, b = noisy(3), noisy(3)
    b.latents.mul_(-1)
    assert not torch.allclose(reward.score(a), reward.score(b))


def test_the_latent_space_must_be_the_backbones(settings, reward):
    if reward.latent_space is None:
        pytest.skip("reads images")
    assert settings.latent_space == reward.latent_space
    with pytest.raises(UserError, match="backbone tiny-test makes other-space"):
        settings.load(tiny_unet.backbone(latent_space="other-space"), CPU, torch.float32)


def test_settings_survive_json_and_name_their_files(settings):
    assert type(settings).model_validate_json(settings.model_dump_json()) == settings
    assert all(path.exists() for path in settings.assets().values())
