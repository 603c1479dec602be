"""SPM's network against SPO sec. 3.2 and the released layout: AdaLN, the start, time, preprocessing, score."""

import math
from types import SimpleNamespace

import made_clip
import pytest
import tiny_unet
import torch
import torch.nn.functional as F

from lpobench.sampling.schedule import RectifiedFlow, VariancePreserving
from rewards.lrm.noise import NoiseMap
from rewards.spm.live import StepAwareReward
from rewards.spm.model import Preprocessing, StepAwareCLIP, timestep_embedding

PROMPTS = ["red", "a star", "red"]
T = torch.tensor([0.0, 401.0, 999.0])
SAME = NoiseMap(VariancePreserving.scaled_linear(), is_flow=False)


@pytest.fixture
def model():
    clip = made_clip.clip()
    return StepAwareCLIP(clip, tiny_unet.tokenizer(), Preprocessing(made_clip.SIDE)).eval()


@pytest.fixture
def trained(model):
    """New layers away from their start."""
    torch.manual_seed(1)
    for layer in (*model.layers, model.final):
        layer.weight.data.normal_(std=0.1)
        layer.bias.data.add_(0.1 * torch.randn_like(layer.bias))
    return model


@pytest.fixture
def images():
    return torch.rand(3, 3, made_clip.SIDE, made_clip.SIDE, generator=torch.Generator().manual_seed(0))


def tokens(prompts: list[str]) -> torch.Tensor:
    fixed = {"padding": "max_length", "max_length": 12, "return_tensors": "pt"}
    return tiny_unet.tokenizer()(prompts, **fixed).input_ids


@torch.no_grad()
def test_the_start_is_the_clip_itself_at_every_t(model, images):
    """Gates 1, shifts and scales 0: the tower bit for bit, the score but for how vectors are normalised."""
    pixels = model.preprocessing(images)
    stock = made_clip.clip()
    seen = F.normalize(stock.get_image_features(pixels).pooler_output, dim=-1)
    assert torch.equal(model.encode_images(images, T), seen)
    expected = stock(input_ids=tokens(PROMPTS), pixel_values=pixels).logits_per_image.diag()
    found = model(images, T, model.encode_prompts(PROMPTS))
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=1e-6)


@torch.no_grad()
def test_adaln_formula(trained, images):
    """The tower written out: per layer x + gate f(norm(x) (1 + scale) + shift), attention first, and the final
    (1 + scale), shift of the class token; the six vectors in the order shift, scale, gate.
    """
    vision, c = trained.clip.vision_model, F.silu(trained.time(timestep_embedding(T)))
    x = vision.pre_layrnorm(vision.embeddings(trained.preprocessing(images)))
    for layer, linear in zip(vision.encoder.layers, trained.layers, strict=True):
        six = (c @ linear.weight.T + linear.bias).view(3, 6, 1, made_clip.WIDTH).unbind(1)
        x = x + six[2] * layer.self_attn(layer.layer_norm1(x) * (1 + six[1]) + six[0])[0]
        x = x + six[5] * layer.mlp(layer.layer_norm2(x) * (1 + six[4]) + six[3])
    shift, scale = (c @ trained.final.weight.T + trained.final.bias).view(3, 2, -1).unbind(1)
    pooled = vision.post_layernorm(x[:, 0]) * (1 + scale) + shift
    expected = F.normalize(trained.clip.visual_projection(pooled), dim=-1)
    torch.testing.assert_close(trained.encode_images(images, T), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_trained_one_reads_t(trained, images):
    same = images[:1].expand(3, -1, -1, -1)
    scores = trained(same, T, trained.encode_prompts(["red"] * 3))
    assert scores.unique().numel() == 3


def test_time_embedding():
    """At t = 0 all cosines are 1, all sines 0. The first frequency is 1, the 65th is 10000^(-1/2) = 0.01."""
    at = timestep_embedding(torch.tensor([0.0, 2.0, 100.0]))
    assert at.shape == (3, 256)
    assert torch.equal(at[0], torch.cat([torch.ones(128), torch.zeros(128)]))
    assert at[1, [0, 128]].tolist() == pytest.approx([math.cos(2), math.sin(2)])
    assert at[2, [64, 192]].tolist() == pytest.approx([math.cos(1), math.sin(1)], abs=1e-5)


def test_the_score_is_a_scaled_cosine(model, images):
    """Opposite directions score -exp(logit_scale), whatever the temperature."""
    model.clip.logit_scale.data.fill_(math.log(50))
    with torch.no_grad():
        seen = model.encode_images(images, T)
        assert model(images, T, seen).tolist() == pytest.approx([50] * 3, rel=1e-5)
        assert model(images, T, -seen).tolist() == pytest.approx([-50] * 3, rel=1e-5)


def test_preprocessing_of_grey():
    """(0.5 - 0.48145466) / 0.26862954 = 0.069036 in red; of pixels outside [0, 1] the nearest end counts."""
    grey = Preprocessing(8)(torch.full((1, 3, 20, 20), 0.5))
    assert grey.shape == (1, 3, 8, 8)
    assert grey[0, 0].unique().item() == pytest.approx(0.069036, abs=1e-5)
    assert torch.equal(
        Preprocessing(8)(torch.full((1, 3, 8, 8), 1.2)), Preprocessing(8)(torch.ones(1, 3, 8, 8))
    )


def test_preprocessing_is_bicubic_without_antialiasing_and_keeps_the_middle():
    """A wide image: short side 12 -> 8, long side 24 -> 16, of which the middle 8 columns; overshoot is cut off."""
    wide = torch.rand(1, 3, 12, 24, generator=torch.Generator().manual_seed(0)).round()
    small = F.interpolate(wide, (8, 16), mode="bicubic", align_corners=False)
    assert small.max() > 1
    plain = Preprocessing(8, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    assert torch.equal(plain(wide), small.clamp(0, 1)[..., 4:12])


def noisy(images: torch.Tensor, prompts: list[str], t: torch.Tensor, clean: bool = False) -> SimpleNamespace:
    """What an SPM reads of lpobench.sampling.rollout.Noisy."""
    return SimpleNamespace(
        latents=torch.zeros(len(images), 4, 2, 2), images=images, prompts=prompts, t=t, clean=clean
    )


def test_a_text_is_encoded_once(model, images, monkeypatch):
    asked, encode = [], model.encode_prompts
    monkeypatch.setattr(model, "encode_prompts", lambda prompts: asked.append(prompts) or encode(prompts))
    reward = StepAwareReward(model, SAME)
    for _ in range(2):
        reward.score(noisy(images, PROMPTS, T))
    assert asked == [["red"], ["a star"]]


def test_finished_images_are_scored_at_0_and_the_end_of_a_grid_too(trained, images):
    reward = StepAwareReward(trained, SAME)
    at_0 = reward.score(noisy(images, PROMPTS, torch.zeros(3)))
    assert torch.equal(reward.score(noisy(images, PROMPTS, T, clean=True)), at_0)
    assert torch.equal(reward.score(noisy(images, PROMPTS, -torch.ones(3))), at_0)
    assert not torch.equal(reward.score(noisy(images, PROMPTS, T)), at_0)


def test_a_flows_times_are_translated_by_noise_level(trained, images):
    """sigma / alpha = 1 at half of a flow, and near t = 390 of Stable Diffusion's schedule."""
    reward = StepAwareReward(trained, NoiseMap(RectifiedFlow(), is_flow=False))
    alpha, sigma = VariancePreserving.scaled_linear().levels(torch.arange(1000.0))
    level = (sigma / alpha - 1).abs().argmin().float()
    half, same = torch.full((3,), 500.0), StepAwareReward(trained, SAME)
    torch.testing.assert_close(
        reward.score(noisy(images, PROMPTS, half)),
        same.score(noisy(images, PROMPTS, level.expand(3))),
        atol=2e-3,
        rtol=1e-3,
    )


def test_gradients_reach_the_latents_and_no_weight(trained, make_policy):
    """Through the VAE of a policy, its denoiser and the SPM: the estimate of noisy latents, and finished ones."""
    from lpobench.sampling.rollout import Noisy

    reward, policy = StepAwareReward(trained, SAME), make_policy(adapter=False)
    for clean in (False, True):
        latents = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
        reward.cache = {"1": torch.ones(8) / 8**0.5, "-1": -torch.ones(8) / 8**0.5}
        t = torch.tensor([0.0, 0.0] if clean else [201.0, 801.0])
        reward.score(Noisy(latents, t, ["1", "-1"], policy, clean)).sum().backward()
        assert (latents.grad.flatten(1).abs().amax(1) > 0).all()
    assert all(parameter.grad is None for parameter in trained.parameters())


@torch.no_grad()
def test_half_precision_scores_are_float32_and_close(trained, images):
    text = trained.encode_prompts(PROMPTS)
    full = trained(images, T, text)
    half = trained.cast_towers(torch.bfloat16)(images, T, text)
    assert half.dtype == torch.float32
    assert trained.clip.logit_scale.dtype == torch.float32
    torch.testing.assert_close(half, full, atol=0.5, rtol=0)
