"""What every registered reward model keeps. A new one adds a line to `SMALL`: a small one, for tests."""

import copy
from pathlib import Path
from types import SimpleNamespace

import made_clip
import made_dina
import made_pipelines
import pytest
import tiny_unet
import torch
from lettered import Lettered

from lpobench import registry
from lpobench.plugin import UserError
from lpobench.sampling import Policy
from lpobench.sampling.rollout import Noisy
from lpobench.types import RewardModel
from rewards.dina import DiNa
from rewards.lrm import LRM, LRMConfig
from rewards.lrm.folder import save
from rewards.lrm.model import LatentRewardModel
from rewards.pixel import Pixel
from rewards.random import RandomReward
from rewards.spm import SPM, SPMConfig
from rewards.spm.folder import ClipPlaces, from_clip
from rewards.spm.folder import save as save_spm
from rewards.weighted_sum import Part, WeightedSum

CPU = torch.device("cpu")


def small_spm(folder: Path) -> SPM:
    """An untrained one, beside."""
    place = folder.with_name(f"{folder.name}-spm")
    if not place.exists():
        clip = ClipPlaces.inside(made_clip.folder(folder.with_name(f"{folder.name}-clip")))
        save_spm(from_clip(clip, seed=0), place, SPMConfig(backbone="letters"), torch.float32)
    return SPM(weights=place)


ON_MMDIT = {"dina"}
"""Rewards of an MMDiT; the others are loaded for a UNet."""
BRIGHTNESS = Pixel(evaluator="pixels", metric="brightness")
SMALL = {
    "dina": lambda folder: DiNa(weights=folder),
    "lrm": lambda folder: LRM(weights=folder),
    "spm": small_spm,
    "random": lambda folder: RandomReward(base=LRM(weights=folder)),
    "pixel": lambda folder: BRIGHTNESS,
    "sum": lambda folder: WeightedSum(
        parts=(Part(reward=LRM(weights=folder)), Part(reward=BRIGHTNESS, std=2))
    ),
}


@pytest.fixture(scope="module")
def unet():
    return tiny_unet.backbone()


@pytest.fixture(scope="module")
def mmdit(tmp_path_factory):
    return made_dina.around(made_pipelines.sd35(tmp_path_factory.mktemp("sd35")))


@pytest.fixture
def backbone(request, reward_name):
    """What a reward is loaded for."""
    return request.getfixturevalue("mmdit" if reward_name in ON_MMDIT else "unet")


@pytest.fixture(scope="module")
def lrm_folder(unet, tmp_path_factory):
    """An untrained LRM of the test backbone."""
    folder, backbone = tmp_path_factory.mktemp("lrm"), unet
    torch.manual_seed(0)
    sizes = {"vfe_scale": 7.5, "feature_dim": 80, "projection_dim": 16}
    config = LRMConfig(backbone=backbone.name, latent_space=backbone.latent_space, **sizes)
    save(LatentRewardModel.from_backbone(backbone, 7.5), folder, config, torch.float32)
    return folder


@pytest.fixture(scope="module")
def dina_folder(mmdit, tmp_path_factory):
    """An untrained DiNa-LRM."""
    return made_dina.folder_of(made_dina.model(mmdit), mmdit, tmp_path_factory.mktemp("dina"))


@pytest.fixture(params=registry.names("rewards"))
def reward_name(request):
    return request.param


@pytest.fixture
def settings(request, reward_name):
    folder = "dina_folder" if reward_name in ON_MMDIT else "lrm_folder"
    return SMALL[reward_name](request.getfixturevalue(folder))


@pytest.fixture
def reward(settings, backbone):
    return settings.load(backbone, CPU, torch.float32)


@pytest.fixture
def noisy(backbone):
    """Rows of different prompts and noise levels; their policy, of another backbone, makes images of any latents."""
    sampling = {"num_steps": 20, "guidance_scale": 5.0, "rule": "ddim", "eta": 1.0}
    policy = Policy(Lettered(), SimpleNamespace(**sampling))

    def make(num: int, *, keep: slice = slice(None)) -> Noisy:
        latents = torch.randn((num, *backbone.latent_shape), generator=torch.Generator().manual_seed(0))
        prompts = [f"star {letter}" for letter in "abcdefgh"[:num]]
        return Noisy(latents[keep], torch.linspace(1, 951, num)[keep], prompts[keep], policy)

    return make


def test_keeps_the_contract(reward):
    assert isinstance(reward, RewardModel)


def test_one_finite_number_per_row_with_a_gradient_if_it_says_so(reward, noisy):
    rows = noisy(4)
    rows.latents.requires_grad_(True)
    scores = reward.score(rows)
    assert scores.shape == (4,)
    assert scores.dtype == torch.float32
    assert scores.isfinite().all()
    assert scores.requires_grad == reward.differentiable
    if reward.differentiable:
        (gradient,) = torch.autograd.grad(scores.sum(), rows.latents)
        assert (gradient.abs().amax((1, 2, 3)) > 0).all()


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


def test_the_latent_space_must_be_the_backbones(settings, reward, backbone):
    if reward.latent_space is None:
        pytest.skip("reads images")
    assert settings.latent_space == reward.latent_space
    other = copy.copy(backbone)
    other.latent_space = "other-space"
    with pytest.raises(UserError, match=f"backbone {backbone.name} makes other-space"):
        settings.load(other, CPU, torch.float32)


def test_settings_survive_json_and_name_their_files(settings):
    assert type(settings).model_validate_json(settings.model_dump_json()) == settings
    assert all(path.exists() for path in settings.assets().values())
