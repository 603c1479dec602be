"""What is FLUX.1's own: packed latents, distilled guidance, a shift by image tokens; and what is refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import FluxPipeline
from made_pipelines import CPU, FLOAT, PROMPTS, SETTINGS, call_options, load, stock
from pydantic import ValidationError

from backbones._diffusers.architectures import ARCHITECTURES, FLUX
from backbones._diffusers.flux import packed, places, unpacked
from backbones.flux import Flux
from lpobench.cli import main
from lpobench.plugin import MissingAsset, UserError
from lpobench.sampling import Noisy, Policy
from lpobench.spec import LoraSettings, RunSpec, SamplingSettings
from lpobench.types import Context
from methods.flow_grpo import FlowGRPO
from methods.lpo import LPO
from methods.step_grpo import StepGRPO
from rewards.dina import DiNa
from rewards.lrm import LRM
from rewards.pixel import Pixel
from rewards.random import RandomReward
from rewards.spm import SPM

ITSELF = "backbones.flux:Flux"
"""Its name where no entry point is installed."""


@pytest.fixture
def folder(pipelines) -> Path:
    return pipelines["flux"]


@pytest.fixture
def backbone(folder):
    return load("flux", folder)


def edited(folder: Path, place: Path, file: str, **changes) -> Flux:
    """Settings of a copy whose config says something else; None takes a key out."""
    shutil.copytree(folder, place, dirs_exist_ok=True)
    config = json.loads((place / file).read_text()) | changes
    (place / file).write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    return SETTINGS["flux"].model_copy(update={"weights": str(place)})


def test_text_is_what_the_stock_pipeline_encodes(folder, backbone):
    """T5's tokens and CLIP's pooled state; "" is encoded like any other."""
    texts = [*PROMPTS, ""]
    length = call_options("flux")["max_sequence_length"]
    tokens, pooled, _ = stock("flux", folder).encode_prompt(texts, max_sequence_length=length)
    ours = backbone.encode_prompt(texts)
    torch.testing.assert_close(ours.prompt_embeds, tokens, atol=1e-5, rtol=1e-5)
    assert torch.equal(ours.pooled, pooled)
    assert ours.prompt_embeds.shape == (5, 8, 40)


def test_tokens_are_packed_and_placed_as_the_stock_pipeline_has_them():
    latents = torch.randn(2, 16, 4, 6)
    assert torch.equal(packed(latents), FluxPipeline._pack_latents(latents, 2, 16, 4, 6))
    assert torch.equal(unpacked(packed(latents), 2), latents)
    assert torch.equal(places(2, 3, CPU), FluxPipeline._prepare_latent_image_ids(2, 2, 3, CPU, FLOAT))


def test_the_shift_follows_from_the_resolution(backbone, folder):
    """16 tokens at 64 pixels, 4096 at 1024, where mu is max_shift."""
    assert (SETTINGS["flux"].image_tokens, Flux().image_tokens) == (16, 4096)
    assert backbone.schedule.shift == pytest.approx(torch.tensor(0.5 - 0.65 * 240 / 3840).exp().item())
    full = Flux(weights=str(folder), t5_tokens=8).load(CPU, FLOAT)
    assert full.latent_shape == (16, 128, 128)
    assert full.schedule.shift == pytest.approx(torch.tensor(1.15).exp().item())


def test_distilled_guidance_is_told_to_the_transformer(backbone):
    latents, t = torch.randn(1, *backbone.latent_shape), torch.tensor([501.0])
    text = backbone.encode_prompt(["a red"])
    with torch.no_grad():
        told = []
        for guidance in (3.5, 1.5, 3.5):
            backbone.distilled_guidance = guidance
            told.append(backbone.predict(latents, t, text))
    assert torch.equal(told[0], told[2])
    assert not torch.allclose(told[0], told[1])


def test_guidance_is_off_unless_it_is_asked_for():
    """A second guidance, at twice the cost, is not FLUX.1's default; a section given in part keeps the rest."""
    part = {"num_steps": 6}
    spec = RunSpec(backbone=Flux(), method=FlowGRPO(), reward=Pixel(), sampling=part, eval=part)
    assert (spec.sampling.guidance_scale, spec.eval.guidance_scale, spec.eval.num_steps) == (1, 1, 6)
    asked = RunSpec(backbone=Flux(), method=FlowGRPO(), reward=Pixel(), sampling={"guidance_scale": 2.0})
    assert (asked.sampling.guidance_scale, asked.eval.guidance_scale) == (2, 1)
    assert RunSpec.model_validate_json(spec.model_dump_json()) == spec
    assert RunSpec().sampling == SamplingSettings()


class Mean:
    """Prefers larger latents, clearly."""

    latent_space = None
    differentiable = True

    def score(self, noisy):
        return 100 * noisy.latents.mean((1, 2, 3))


@pytest.mark.parametrize(
    ("method", "rule", "checkpointing"),
    [(StepGRPO(), "ddim", False), (FlowGRPO(num_paths=4), "flow_sde", True)],
    ids=["step", "flow"],
)
def test_two_updates_move_the_whole_adapter_and_leave_the_base(method, rule, checkpointing, backbone):
    sampling = SamplingSettings(num_steps=4, guidance_scale=1.0, rule=rule, eta=0.7)
    policy = Policy(backbone, sampling, LoraSettings(rank=2))
    if checkpointing:
        backbone.denoiser.enable_gradient_checkpointing()
    weights = dict(backbone.denoiser.named_parameters())
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    context = Context(policy, torch.Generator().manual_seed(0), Mean(), next_prompts=lambda: PROMPTS)
    optimizer = torch.optim.AdamW(policy.trained, lr=1e-2, weight_decay=0)
    for _ in range(2):
        with torch.no_grad():
            rows = method.complete(method.collect(context))
        optimizer.zero_grad()
        method.loss(context, rows)[0].backward()
        optimizer.step()
    moved = {name for name, weight in weights.items() if not torch.equal(weight, before[name])}
    assert moved == {name for name in weights if ".lora_" in name}
    adapted = {name.partition(".lora_")[0] for name in moved}
    for target in backbone.lora_targets:
        assert any(name.endswith(target) for name in adapted), target
    assert {name for name in adapted if name.startswith("single")} == {
        f"single_transformer_blocks.0.attn.to_{part}" for part in "qkv"
    }


def test_random_weights_make_a_stock_pipeline(monkeypatch, folder):
    small = {
        "transformer": json.loads((folder / "transformer" / "config.json").read_text()),
        "vae": json.loads((folder / "vae" / "config.json").read_text()),
        "text_encoder": FLUX["text_encoder"]
        | {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
        "text_encoder_2": FLUX["text_encoder_2"]
        | {"d_model": 40, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2},
    }
    monkeypatch.setitem(ARCHITECTURES, "flux", FLUX | small)
    backbone = Flux(weights="random", resolution=64, t5_tokens=8, t5="cpu").load(CPU, FLOAT)
    assert backbone.stay_on_cpu == ("text_encoder_2",)
    assert backbone.encode_prompt(["a red star"]).prompt_embeds.isfinite().all()
    theirs = backbone.stock_pipeline()
    assert isinstance(theirs, FluxPipeline)
    ours = backbone.transformer.state_dict()
    assert all(torch.equal(ours[key], value) for key, value in theirs.transformer.state_dict().items())


@pytest.mark.parametrize(
    ("file", "changes", "kind", "message"),
    [
        ("model_index.json", {"text_encoder_2": [None, None]}, UserError, "has no text_encoder_2, its model"),
        ("model_index.json", {"_class_name": "FluxFillPipeline"}, UserError, "holds a FluxFillPipeline;"),
        ("transformer/config.json", {"guidance_embeds": False}, UserError, "guidance_embeds is off"),
        ("scheduler/scheduler_config.json", {"_class_name": "DDIMScheduler"}, UserError, "predicts epsilon"),
        ("scheduler/scheduler_config.json", {"time_shift_type": "linear"}, UserError, "is 'linear', not exp"),
        ("scheduler/scheduler_config.json", {"shift_terminal": 0.02}, UserError, "shift_terminal is set"),
    ],
)
def test_other_folders_are_refused_before_weights_are_read(
    file, changes, kind, message, folder, tmp_path, monkeypatch
):
    settings = edited(folder, tmp_path / "copy", file, **changes)
    monkeypatch.setattr("backbones._diffusers.parts.load_part", None)
    with pytest.raises(kind, match=message) as caught:
        settings.load(CPU, FLOAT)
    assert "\n" not in str(caught.value)


def test_another_family_and_a_missing_t5_are_refused(folder, pipelines, tmp_path):
    with pytest.raises(UserError, match="holds a StableDiffusion3Pipeline; backbone flux reads a FluxPipe"):
        Flux(weights=str(pipelines["sd3"])).assets()
    shutil.rmtree(shutil.copytree(folder, tmp_path / "copy") / "text_encoder_2")
    with pytest.raises(MissingAsset, match="has no text_encoder_2/, which its model_index"):
        Flux(weights=str(tmp_path / "copy")).assets()
    (tmp_path / "flux1-dev.safetensors").touch()
    with pytest.raises(UserError, match="backbone flux reads a pipeline folder"):
        Flux(weights=str(tmp_path / "flux1-dev.safetensors")).assets()
    with pytest.raises(ValidationError, match="should be a multiple of 16, got 72"):
        Flux(resolution=72)
    with pytest.raises(ValidationError, match="transformer of flux has no sliced attention"):
        Flux(attention_slicing=True)
    with pytest.raises(ValidationError, match="cpu"):
        Flux(t5="off")


def test_its_latents_are_no_other_models():
    assert Flux().latent_space == "flux-vae-f8c16"
    with pytest.raises(ValidationError, match=r"reads latents of tiny-vae-f8c8, backbone \S+ makes flux-vae"):
        RunSpec(backbone=Flux(), method=LPO(), reward=LRM())


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (
            LRM(),
            "reward lrm is built from a UNet or SD3's transformer, backbone flux is a FluxTransformer2DModel",
        ),
        (DiNa(), "reward dina looks through an SD3 transformer, backbone flux is a FluxTransformer2DModel"),
    ],
)
def test_rewards_made_of_other_denoisers_are_refused(reward, message, backbone, tmp_path):
    with pytest.raises(UserError, match=message):
        reward.train(backbone, tmp_path, seed=0, device=CPU, dtype=FLOAT)
    with pytest.raises(UserError, match=message):
        reward.model_copy(update={"weights": "random"}).load(backbone, CPU, FLOAT)


@pytest.mark.parametrize("chosen", [[], ["--set", "reward.backbone=flux"]], ids=["shipped", "its own"])
def test_training_an_lrm_is_refused_in_one_line(chosen, folder, tmp_path, capsys):
    command = ["reward", "train", "--backbone", ITSELF, "--reward", "lrm", "--out", str(tmp_path / "runs")]
    small = [f"backbone.weights={folder}", "backbone.resolution=64", "backbone.t5_tokens=8", "device=cpu"]
    sets = [part for value in (*small, "eval.num_prompts=1") for part in ("--set", value)]
    assert main([*command, *sets, *chosen]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "FluxTransformer2DModel" in last if chosen else "makes flux-vae-f8c16" in last


@pytest.mark.parametrize("reward", ["pixel", "spm", "random"])
def test_rewards_that_read_images_score_its_latents(reward, backbone):
    brightness = Pixel(evaluator="pixels", metric="brightness")
    settings = {"pixel": brightness, "spm": SPM(), "random": RandomReward(base=brightness)}[reward]
    policy = Policy(backbone, SamplingSettings(num_steps=4, guidance_scale=1.0))
    latents = torch.randn(4, *backbone.latent_shape)
    noisy = Noisy(latents, torch.full((4,), 501.0), ["a red", "two blue"] * 2, policy)
    with torch.no_grad():
        scores = settings.load(backbone, CPU, FLOAT).score(noisy)
    assert scores.shape == (4,)
    assert scores.isfinite().all()
    assert policy.calls == 1
