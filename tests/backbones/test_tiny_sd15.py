"""The shipped tiny-sd15: a stock pipeline's view of it, and bad folders. Its gates: test_tiny_gates.py."""

import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

from backbones.tiny import SHIPPED, TinySD15, models
from lpobench.plugin import MissingAsset, UserError
from lpobench.sampling import Policy
from lpobench.spec import LoraSettings, SamplingSettings

CPU, FLOAT = torch.device("cpu"), torch.float32
PROMPTS = ["a red star", "two blue circles", "a small green square", "a star above a circle"]


@pytest.fixture(scope="module")
def stock() -> StableDiffusionPipeline:
    pipe = StableDiffusionPipeline.from_pretrained(SHIPPED / "tiny-sd15", use_safetensors=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def backbone():
    return TinySD15().load(CPU, FLOAT)


def test_policy_samples_what_the_stock_pipeline_samples(stock, backbone):
    """Same noise, 20 steps, eta 0, guidance 5: the same image to 1e-4."""
    noise = torch.randn((4, *backbone.latent_shape), generator=torch.Generator().manual_seed(0))
    theirs = stock(
        PROMPTS, latents=noise, num_inference_steps=20, guidance_scale=5.0, output_type="pt"
    ).images
    policy = Policy(backbone, SamplingSettings(num_steps=20, guidance_scale=5.0, eta=0.0))
    x = noise
    with torch.no_grad():
        for t, s in zip(policy.timesteps[:-1], policy.timesteps[1:], strict=True):
            x = policy.step(x, torch.full((4,), t), torch.full((4,), s), PROMPTS).mean
    assert (backbone.decode(x) - theirs).abs().max() < 1e-4


def test_stock_scheduler_is_the_lpo_grid():
    scheduler = DDIMScheduler.from_pretrained(SHIPPED / "tiny-sd15" / "scheduler")
    scheduler.set_timesteps(20)
    assert scheduler.timesteps.tolist() == list(range(951, 0, -50))
    assert scheduler.config.prediction_type == "epsilon"


def test_every_word_of_the_grammar_is_one_token(backbone):
    assert [len(backbone.tokenizer.tokenize(word)) for word in models.words()] == [1] * len(models.words())


def test_exported_lora_reproduces_the_policy_in_a_stock_pipeline(backbone, stock, tmp_path):
    policy = Policy(backbone, SamplingSettings(), LoraSettings(rank=4, alpha=8))
    with torch.no_grad():
        for parameter in policy.trained:
            parameter.add_(0.05 * torch.randn_like(parameter))
    backbone.export_lora(tmp_path)
    fresh = StableDiffusionPipeline.from_pretrained(SHIPPED / "tiny-sd15", use_safetensors=True)
    fresh.load_lora_weights(tmp_path)
    latents, t = torch.randn(1, *backbone.latent_shape), torch.tensor([501.0])
    text = backbone.encode_prompt(["a red star"])
    with torch.no_grad():
        ours, theirs, base = (
            backbone.predict(latents, t, text),
            fresh.unet(latents, t, text.prompt_embeds).sample,
            stock.unet(latents, t, text.prompt_embeds).sample,
        )
    assert (ours - theirs).abs().max() < 1e-5
    assert (ours - base).abs().max() > 1e-2


@torch.no_grad()
def test_a_cpu_decodes_in_parts_with_the_same_result(backbone):
    """50 images: three parts of at least 16."""
    latents = torch.randn((50, *backbone.latent_shape), generator=torch.Generator().manual_seed(0))
    sizes = []
    hook = backbone.vae.decoder.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    images = backbone.decode(latents)
    assert sizes == [17, 17, 16]
    backbone.decode(latents[:5])
    assert sizes[3:] == [5]
    hook.remove()
    torch.testing.assert_close(images, backbone._decoded(latents), rtol=0, atol=1e-6)


def test_missing_folder_names_it(tmp_path):
    with pytest.raises(MissingAsset, match="no such model folder"):
        TinySD15(weights=tmp_path / "nowhere").load(CPU, FLOAT)


def broken_copy(tmp_path: Path) -> Path:
    folder = tmp_path / "copy"
    shutil.copytree(SHIPPED / "tiny-sd15", folder)
    return folder


def test_unreadable_weights_are_one_line(tmp_path):
    folder = broken_copy(tmp_path)
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"not safetensors at all")
    with pytest.raises(UserError, match="cannot read the weights in") as caught:
        TinySD15(weights=folder).load(CPU, FLOAT)
    assert "\n" not in str(caught.value)


def test_pickles_are_refused(tmp_path):
    folder = broken_copy(tmp_path)
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    path.rename(path.with_suffix(".bin"))
    with pytest.raises(UserError, match="is a pickle and is not read"):
        TinySD15(weights=folder).load(CPU, FLOAT)
