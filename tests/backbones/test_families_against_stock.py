"""Every family, in small and random: loaded by the real path, compared with diffusers' own pipeline of one folder."""

import math

import made_pipelines
import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from made_pipelines import CPU, FAMILIES, PROMPTS, load, settings, stock

from lpobench.plugin import UserError
from lpobench.sampling import Policy
from lpobench.spec import LoraSettings, SamplingSettings
from lpobench.types import Backbone, Context
from methods.lpo import LPO

STEPS, GUIDANCE = 4, 5.0
CLOSE = 1e-4
LORA = LoraSettings(rank=4, alpha=8)


def noise(backbone) -> torch.Tensor:
    return torch.randn((len(PROMPTS), *backbone.latent_shape), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def sampled(backbone, guidance_scale: float = GUIDANCE) -> torch.Tensor:
    """Latents of our sampler at eta 0, whatever adapters are on."""
    policy = Policy(backbone, SamplingSettings(num_steps=STEPS, guidance_scale=guidance_scale, eta=0.0))
    latents, ones = noise(backbone), torch.ones(len(PROMPTS))
    for t, s in zip(policy.timesteps[:-1], policy.timesteps[1:], strict=True):
        latents = policy.step(latents, t * ones, s * ones, PROMPTS).mean
    return latents


def stock_output(pipeline, family: str, latents: torch.Tensor, output: str, guidance: float = GUIDANCE):
    return made_pipelines.stock_output(pipeline, family, latents, output, STEPS, guidance)


@pytest.fixture(params=FAMILIES)
def family(request) -> str:
    return request.param


@pytest.fixture
def backbone(family, pipelines):
    return load(family, pipelines[family])


def test_keeps_the_contract(backbone):
    assert isinstance(backbone, Backbone)
    assert backbone.encode(torch.rand(1, 3, 64, 64)).shape == (1, *backbone.latent_shape)


@pytest.mark.parametrize("guidance", [1.0, GUIDANCE])
def test_without_noise_our_sampler_is_the_stock_pipeline(family, backbone, pipelines, guidance):
    """Euler for flows, DDIM at eta 0 for the others; v-prediction is sd21-v's."""
    pipeline = stock(family, pipelines[family])
    scheduler = (
        DDIMScheduler if family.startswith(("sd1", "sd2", "sdxl")) else FlowMatchEulerDiscreteScheduler
    )
    assert isinstance(pipeline.scheduler, scheduler)
    latents = sampled(backbone, guidance)
    theirs = stock_output(pipeline, family, noise(backbone), "latent", guidance)
    assert theirs.std() > 0.1
    assert (latents - theirs).abs().max() < CLOSE
    images = stock_output(pipeline, family, noise(backbone), "pt", guidance)
    assert (backbone.decode(latents) - images).abs().max() < CLOSE


class Mean:
    """Prefers larger latents, clearly."""

    latent_space = None

    differentiable = True

    def score(self, noisy):
        return 100 * noisy.latents.mean((1, 2, 3))


def trained(backbone, num_updates: int = 2, parameters=LORA, learning_rate: float = 1e-2) -> list[float]:
    """LPO on the adapters, or on all weights; returns the losses."""
    policy = Policy(backbone, SamplingSettings(num_steps=STEPS, guidance_scale=GUIDANCE), parameters)
    method = LPO(beta=500, min_gap=(0.0, 0.0))
    context = Context(policy, torch.Generator().manual_seed(0), Mean(), next_prompts=lambda: PROMPTS)
    optimizer = torch.optim.AdamW(policy.trained, lr=learning_rate)
    losses = []
    for _ in range(num_updates):
        with torch.no_grad():
            rows = method.collect(context)
        loss, _ = method.loss(context, rows)
        optimizer.zero_grad()
        loss.backward()
        assert all(parameter.grad is not None for parameter in policy.trained)
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_trained_exported_and_reloaded_gives_the_same_images(family, backbone, pipelines, tmp_path):
    before = sampled(backbone)
    losses = trained(backbone)
    assert losses[0] == pytest.approx(math.log(2), abs=1e-5)
    assert math.isfinite(losses[1])
    backbone.export_lora(tmp_path)

    pipeline = stock(family, pipelines[family])
    pipeline.load_lora_weights(tmp_path)
    latents = sampled(backbone)
    assert (latents - before).abs().max() > 100 * CLOSE
    images = stock_output(pipeline, family, noise(backbone), "pt")
    assert (backbone.decode(latents) - images).abs().max() < CLOSE


@pytest.mark.parametrize("family", ["sd15", "sd35"], indirect=True)
def test_all_weights_trained_exported_and_reloaded_give_the_same_images(
    family, backbone, pipelines, tmp_path
):
    """By the stock pipeline with our denoiser in it, and as a checkpoint of ours."""
    losses = trained(backbone, parameters="all", learning_rate=1e-3)
    assert losses[0] == pytest.approx(math.log(2), abs=1e-5)
    backbone.export_denoiser(tmp_path)
    place = tmp_path / backbone.component
    assert {"config.json", "diffusion_pytorch_model.safetensors"} == {path.name for path in place.iterdir()}

    pipeline = stock(family, pipelines[family])
    setattr(pipeline, backbone.component, type(backbone.denoiser).from_pretrained(place))
    again = load(family, pipelines[family])
    before = sampled(again)
    told = again.load_checkpoint(tmp_path)
    assert told.startswith(f"all {len(backbone.denoiser.state_dict())} weights of the {backbone.component}")
    with pytest.raises(UserError, match="is being trained; load it before that"):
        backbone.load_checkpoint(tmp_path)
    latents = sampled(backbone)
    assert torch.equal(sampled(again), latents)
    assert (latents - before).abs().max() > 100 * CLOSE
    images = stock_output(pipeline, family, noise(backbone), "pt")
    assert (backbone.decode(latents) - images).abs().max() < CLOSE


def test_a_denoiser_that_was_not_written_as_it_is_is_noticed(pipelines, tmp_path, monkeypatch):
    backbone = load("sd15", pipelines["sd15"])
    Policy(backbone, SamplingSettings(), "all").trained[0].data.add_(1.0)
    written = load("sd15", pipelines["sd15"]).denoiser.save_pretrained
    monkeypatch.setattr(backbone.denoiser, "save_pretrained", written)
    with pytest.raises(
        RuntimeError, match=r"exported denoiser differs from the trained policy in conv_in\.weight"
    ):
        backbone.export_denoiser(tmp_path)


def test_an_export_that_lost_its_alpha_is_noticed(backbone, tmp_path, monkeypatch):
    """Without metadata a stock pipeline takes alpha to be the rank: half of what was trained."""
    trained(backbone, num_updates=1)
    monkeypatch.setattr("backbones._diffusers.export._collate_lora_metadata", lambda modules: {})
    with pytest.raises(RuntimeError, match="differs from the trained policy in"):
        backbone.export_lora(tmp_path)


def test_export_works_after_the_text_encoders_are_gone(backbone, tmp_path):
    trained(backbone, num_updates=1)
    backbone.release_text_encoders()
    backbone.export_lora(tmp_path)
    assert (tmp_path / "pytorch_lora_weights.safetensors").is_file()


@pytest.mark.parametrize("family", ["sdxl", "sd3", "flux"], indirect=True)
def test_half_precision_trains_and_exports(family, pipelines, tmp_path):
    """float32 adapters on bfloat16 weights; the check of the export allows for the kernels' rounding."""
    backbone = settings(family, pipelines[family]).load(CPU, torch.bfloat16)
    losses = trained(backbone)
    assert losses[0] == pytest.approx(math.log(2), abs=1e-5)
    backbone.export_lora(tmp_path)
