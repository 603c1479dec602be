"""An LRM on latents of another noise path: the same noise level, rescaled."""

import pytest
import tiny_unet
import torch

from lpobench.plugin import UserError
from lpobench.sampling.schedule import RectifiedFlow, VariancePreserving, _alphas_cumprod
from rewards.lrm.live import LatentReward
from rewards.lrm.model import LatentRewardModel
from rewards.lrm.noise import NoiseMap, check_trainable

DDPM, FLOW = VariancePreserving.scaled_linear(), RectifiedFlow()
T = torch.arange(1.0, 952, 50)


@pytest.fixture
def parts():
    """Clean latents and noise, a row per timestep."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn((len(T), 4, 2, 2), generator=generator) for _ in range(2)]


def mixed(schedule, t, parts):
    alpha, sigma = (level.view(-1, 1, 1, 1) for level in schedule.levels(t))
    return alpha * parts[0] + sigma * parts[1]


def test_ddpm_latents_become_a_flows(parts):
    """x / (alpha + sigma) is (1 - s) x0 + s eps with s = sigma / (alpha + sigma), and t is 1000 s."""
    latents, t = NoiseMap(DDPM, is_flow=True)(mixed(DDPM, T, parts), T)
    torch.testing.assert_close(latents, mixed(FLOW, t, parts))


def test_a_flows_latents_become_ddpms(parts):
    """There and back: whole timesteps are found again, and the latents with them."""
    noise = mixed(DDPM, T, parts)
    latents, t = NoiseMap(FLOW, is_flow=False)(*NoiseMap(DDPM, is_flow=True)(noise, T))
    torch.testing.assert_close(t, T, atol=0.01, rtol=0)
    torch.testing.assert_close(latents, noise)


def test_between_timesteps_it_is_monotone_and_beyond_the_ends_it_stays():
    t = torch.linspace(0, 1000, 201)
    _, own = NoiseMap(FLOW, is_flow=False)(torch.zeros(201, 1, 1, 1), t)
    assert (own.diff() >= 0).all()
    assert (own[0].item(), own[-1].item()) == (0, 999)


def test_another_ddpm_schedule_is_mapped_by_its_noise_level(parts):
    """Linear betas reach the same levels at other times; the latents of two such paths are the same."""
    linear, times = VariancePreserving(_alphas_cumprod("linear", 0.0001, 0.02, 1000)), T[2:14]
    noise = mixed(linear, times, [part[2:14] for part in parts])
    latents, t = NoiseMap(linear, is_flow=False)(noise, times)
    torch.testing.assert_close(latents, noise)
    (alpha, sigma), (own_alpha, own_sigma) = linear.levels(times), DDPM.levels(t.round())
    torch.testing.assert_close(sigma / alpha, own_sigma / own_alpha, atol=0, rtol=0.01)
    assert (t - times).abs().max() > 100


@pytest.mark.parametrize(
    ("given", "is_flow"),
    [(DDPM, False), (VariancePreserving.scaled_linear(prediction="v_prediction"), False), (FLOW, True)],
)
def test_on_its_own_path_nothing_is_touched(given, is_flow):
    latents = torch.ones(2, 1, 1, 1)
    same, t = NoiseMap(given, is_flow)(latents, T[:2])
    assert same is latents
    assert torch.equal(t, T[:2])


def test_scores_do_not_depend_on_the_path():
    """The same noisy latents, told as DDPM's and as a flow's, score alike."""
    torch.manual_seed(0)
    backbone = tiny_unet.backbone()
    model = LatentRewardModel.from_backbone(backbone, 7.5)
    noisy = tiny_unet.noisy(["red", "blue"], t=401.0)
    own = LatentReward(model, "any", NoiseMap(DDPM, is_flow=False)).score(noisy)
    noisy.latents, noisy.t = NoiseMap(DDPM, is_flow=True)(noisy.latents, noisy.t)
    mapped = LatentReward(model, "any", NoiseMap(FLOW, is_flow=False)).score(noisy)
    torch.testing.assert_close(mapped, own, atol=1e-3, rtol=1e-3)


def test_an_lrm_is_trained_on_the_path_its_kind_stands_for():
    linear = VariancePreserving(_alphas_cumprod("linear", 0.0001, 0.02, 1000))
    for schedule, is_mmdit in ((DDPM, False), (FLOW, True)):
        check_trainable(schedule, "x", is_mmdit)
    for schedule, is_mmdit in ((linear, False), (FLOW, False), (DDPM, True)):
        with pytest.raises(UserError, match="an LRM of backbone x is trained on"):
            check_trainable(schedule, "x", is_mmdit)
