"""What is Z-Image's own: prompts of several lengths as a chat, FLUX.1's latents; and what is refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import ZImagePipeline
from made_pipelines import CPU, FLOAT, PROMPTS, call_options, load, stock

from backbones._diffusers.architectures import ARCHITECTURES, Z_IMAGE
from backbones.flux import Flux
from backbones.z_image import ZImage
from lpobench.plugin import UserError
from lpobench.sampling import Policy
from lpobench.spec import LoraSettings, SamplingSettings
from lpobench.types import Context
from methods.step_grpo import StepGRPO
from rewards.dina import DiNa
from rewards.lrm import LRM


@pytest.fixture
def folder(pipelines) -> Path:
    return pipelines["z-image"]


@pytest.fixture
def backbone(folder):
    return load("z-image", folder)


@pytest.mark.parametrize("side", ["left", "right"])
def test_text_is_what_the_stock_pipeline_encodes(side, folder, backbone):
    """A list of tokens per prompt, as many as it has; padded and cut as the tokenizer does."""
    backbone.tokenizer.padding_side = side
    texts = [*PROMPTS, "", "a very long prompt that is cut at forty tokens"]
    theirs, _ = stock("z-image", folder).encode_prompt(
        list(texts), max_sequence_length=call_options("z-image")["max_sequence_length"]
    )
    ours = backbone.encode_prompt(texts)
    assert ours.prompt_embeds.shape == (6, 40, 16)
    assert ours.lengths.tolist() == [len(tokens) for tokens in theirs]
    assert len(set(ours.lengths.tolist())) > 3
    for mine, other in zip(ours.texts, theirs, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-5)


def test_a_row_does_not_depend_on_its_neighbours(backbone):
    """Prompts of 14 to 40 tokens: the shorter ones are padded in a batch."""
    texts = ["", "a very long prompt that is cut at forty tokens"]
    latents, t = torch.randn(2, *backbone.latent_shape), torch.tensor([251.0, 751.0])
    text = backbone.encode_prompt(texts)
    with torch.no_grad():
        together = backbone.predict(latents, t, text)
        apart = [
            backbone.predict(latents[i : i + 1], t[i : i + 1], text.take(torch.tensor([i]))) for i in (0, 1)
        ]
    torch.testing.assert_close(together, torch.cat(apart), atol=1e-5, rtol=1e-5)


class Mean:
    """Prefers larger latents, clearly."""

    latent_space = None
    differentiable = True

    def score(self, noisy):
        return 100 * noisy.latents.mean((1, 2, 3))


def test_two_updates_move_the_whole_adapter_and_leave_the_base(backbone):
    policy = Policy(backbone, SamplingSettings(num_steps=4, guidance_scale=1.0), LoraSettings(rank=2))
    backbone.denoiser.enable_gradient_checkpointing()
    weights = dict(backbone.denoiser.named_parameters())
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    method = StepGRPO()
    context = Context(policy, torch.Generator().manual_seed(0), Mean(), next_prompts=lambda: PROMPTS)
    optimizer = torch.optim.AdamW(policy.trained, lr=1e-2, weight_decay=0)
    for _ in range(2):
        with torch.no_grad():
            rows = method.collect(context)
        optimizer.zero_grad()
        method.loss(context, rows)[0].backward()
        optimizer.step()
    moved = {name for name, weight in weights.items() if not torch.equal(weight, before[name])}
    assert moved == {name for name in weights if ".lora_" in name}
    assert len(moved) == 3 * 4 * 2  # blocks, projections, matrices


def test_random_weights_make_a_stock_pipeline(monkeypatch, folder):
    small = {name: json.loads((folder / name / "config.json").read_text()) for name in ("transformer", "vae")}
    small["text_encoder"] = Z_IMAGE["text_encoder"] | {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "vocab_size": 300,
    }
    monkeypatch.setitem(ARCHITECTURES, "z-image", Z_IMAGE | small)
    backbone = ZImage(weights="random", resolution=64).load(CPU, FLOAT)
    assert backbone.encode_prompt(["a red star"]).prompt_embeds.isfinite().all()
    theirs = backbone.stock_pipeline()
    assert isinstance(theirs, ZImagePipeline)
    ours = backbone.transformer.state_dict()
    assert all(torch.equal(ours[key], value) for key, value in theirs.transformer.state_dict().items())


def test_its_defaults_and_its_latents(folder):
    """FLUX.1-dev's autoencoder, file for file; a constant shift on its grid."""
    assert ZImage().latent_space == Flux().latent_space
    full = ZImage(weights=str(folder), text_tokens=40).load(CPU, FLOAT)
    assert full.latent_shape == (16, 128, 128)
    assert (full.schedule.shift, full.schedule.grid) == (6.0, "flux")


def test_other_folders_are_refused_before_weights_are_read(folder, pipelines, tmp_path, monkeypatch):
    monkeypatch.setattr("backbones._diffusers.parts.load_part", None)
    with pytest.raises(UserError, match="holds a FluxPipeline; backbone z-image reads a ZImagePipeline"):
        ZImage(weights=str(pipelines["flux"])).load(CPU, FLOAT)
    shutil.copytree(folder, tmp_path / "copy")
    shutil.copy(pipelines["sd15"] / "scheduler" / "scheduler_config.json", tmp_path / "copy" / "scheduler")
    with pytest.raises(UserError, match="predicts epsilon, its scheduler config says; backbone z-image"):
        ZImage(weights=str(tmp_path / "copy")).load(CPU, FLOAT)
    (tmp_path / "z.safetensors").touch()
    with pytest.raises(UserError, match="backbone z-image reads a pipeline folder"):
        ZImage(weights=str(tmp_path / "z.safetensors")).load(CPU, FLOAT)


@pytest.mark.parametrize("reward", [LRM(weights="random"), DiNa(weights="random")])
def test_rewards_made_of_other_denoisers_are_refused(reward, backbone):
    with pytest.raises(UserError, match="backbone z-image is a ZImageTransformer2DModel"):
        reward.load(backbone, CPU, FLOAT)
