"""Rewards with random weights at their true size: for timing, with no download."""

import made_dina
import made_pipelines
import pytest
import tiny_unet
import torch

from backbones.tiny import TinySD15
from lpobench.sampling import Noisy, Policy
from lpobench.spec import SamplingSettings, load_spec
from rewards.dina import DiNa
from rewards.lrm import LRM
from rewards.lrm.blocks import UNetBlocks
from rewards.spm import SPM, random_weights

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def backbone():
    return TinySD15().load(CPU, torch.float32)


@pytest.fixture
def noisy(backbone):
    policy = Policy(backbone, SamplingSettings())
    latents = torch.randn(2, *backbone.latent_shape, generator=torch.Generator().manual_seed(0))
    return Noisy(latents, torch.tensor([501.0, 1.0]), ["a red star", "two squares"], policy)


@pytest.mark.parametrize("settings", [LRM(weights="random"), SPM(weights="random"), DiNa(weights="random")])
def test_they_need_no_file_and_fit_any_backbone(settings):
    assert settings.assets() == {}
    assert settings.latent_space is None
    assert settings.measured() == {}
    assert type(settings).model_validate_json(settings.model_dump_json()) == settings


def test_the_recipe_of_a_published_model_is_made_random():
    random = ["backbone.weights=random", "reward.weights=random"]
    load_spec("sd15-lpo", overrides=random).check_assets()


def test_lrm_is_the_backbones_blocks_untrained(backbone, noisy):
    reward = LRM(weights="random").load(backbone, CPU, torch.float32)
    scores = reward.score(noisy)
    assert scores.isfinite().all()
    assert scores[0] != scores[1]
    assert reward.latent_space == backbone.latent_space
    assert reward.model.vfe_scale == 7.5
    assert torch.equal(reward.model.blocks.unet.conv_in.weight, backbone.unet.conv_in.weight)


def test_lrm_is_made_of_a_denoiser_that_is_being_trained():
    """A policy's adapter renames the layers that it is on, and adds its own."""
    backbone = tiny_unet.backbone()
    before = {name: value.clone() for name, value in UNetBlocks.from_backbone(backbone).state_dict().items()}
    from peft import LoraConfig

    backbone.unet.add_adapter(LoraConfig(r=1, target_modules=["to_q", "to_k"]))
    after = UNetBlocks.from_backbone(backbone).state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_spm_has_the_published_size(backbone):
    """CLIP ViT-H/14: 986.1 M, and what tells it the timestep: 320.1 M. Made without memory."""
    model = random_weights.empty(backbone.tokenizer)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    clip = sum(parameter.numel() for parameter in model.clip.parameters())
    width = 1280
    time = 256 * width + width + width * width + width
    told = 32 * (width * 6 * width + 6 * width) + width * 2 * width + 2 * width
    assert clip == pytest.approx(986.1e6, rel=1e-3)
    assert sum(parameter.numel() for parameter in model.parameters()) == clip + time + told


def test_spm_scores(backbone, noisy, monkeypatch):
    """A small one of the same making."""
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    monkeypatch.setattr(random_weights, "VISION", {**random_weights.VISION, **small})
    monkeypatch.setattr(random_weights, "TEXT", {**random_weights.TEXT, **small})
    monkeypatch.setattr(random_weights, "PROJECTION", 16)
    reward = SPM(weights="random").load(backbone, CPU, torch.bfloat16)
    with torch.no_grad():
        scores = reward.score(noisy)
    assert scores.isfinite().all()
    assert scores.abs().max() <= 100
    assert scores[0] != scores[1]
    assert {parameter.dtype for parameter in reward.model.layers.parameters()} == {torch.bfloat16}
    assert reward.model.clip.logit_scale.dtype == torch.float32


@pytest.fixture(scope="module")
def mmdit(tmp_path_factory):
    return made_dina.around(made_pipelines.sd35(tmp_path_factory.mktemp("sd35")))


@pytest.mark.parametrize("shared", [True, False])
def test_dina_is_half_the_policys_transformer_untrained(mmdit, shared):
    """Its adapter is a no-op, and the policy's own stays out of it."""
    settings = DiNa(weights="random", shared=shared, training=made_dina.QUICK)
    policy = made_dina.policy(mmdit, adapter=False)
    latents = torch.randn(2, *mmdit.latent_shape, generator=torch.Generator().manual_seed(0))
    noisy = Noisy(latents, torch.tensor([600.0, 200.0]), list(made_dina.PROMPTS[:2]), policy)
    with torch.no_grad():
        scores = settings.load(mmdit, CPU, torch.float32).score(noisy)
        again = settings.load(mmdit, CPU, torch.float32).score(noisy)
    assert scores.isfinite().all()
    assert torch.equal(scores, again)


def test_lrm_of_an_mmdit(mmdit):
    reward = LRM(weights="random").load(mmdit, CPU, torch.float32)
    assert reward.model.is_mmdit
    assert reward.noise.is_identity
