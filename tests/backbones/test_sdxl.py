"""What is SDXL's own: two encoders, zeros for the empty prompt, the picture's size, another VAE."""

import json
import shutil

import pytest
import torch
from diffusers import AutoencoderKL
from made_pipelines import CPU, FLOAT, PROMPTS, load, stock

from backbones.sd import SD15
from backbones.sdxl import SDXL
from lpobench.plugin import MissingAsset, UserError


@pytest.fixture
def folder(pipelines):
    return pipelines["sdxl"]


@pytest.fixture
def copied(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "sdxl")
    return tmp_path / "sdxl"


def test_text_is_what_the_stock_pipeline_encodes(folder):
    """hidden_states[-2] of both encoders, the second's projected embedding; the negative prompt is all zeros."""
    text, negative, pooled, negative_pooled = stock("sdxl", folder).encode_prompt(PROMPTS)
    ours = load("sdxl", folder).encode_prompt([*PROMPTS, ""])
    assert torch.equal(ours.prompt_embeds, torch.cat([text, negative[:1]]))
    assert torch.equal(ours.pooled, torch.cat([pooled, negative_pooled[:1]]))
    assert not ours.prompt_embeds[-1].any()
    assert not ours.pooled[-1].any()


def test_without_forced_zeros_the_empty_prompt_is_encoded(copied):
    index = json.loads((copied / "model_index.json").read_text()) | {"force_zeros_for_empty_prompt": False}
    (copied / "model_index.json").write_text(json.dumps(index))
    _, negative, _, pooled = stock("sdxl", copied).encode_prompt(["a"])
    ours = load("sdxl", copied).encode_prompt([""])
    assert torch.equal(ours.prompt_embeds, negative)
    assert torch.equal(ours.pooled, pooled)
    assert ours.pooled.any()


@pytest.mark.parametrize("resolution", [None, 96])
def test_the_unet_is_told_the_size(folder, resolution):
    backbone = SDXL(weights=str(folder), vae=None, resolution=resolution).load(CPU, FLOAT)
    side = resolution or 64
    assert backbone.latent_shape == (4, side // 8, side // 8)
    assert backbone.encode_prompt(["a", ""]).time_ids.tolist() == [[side, side, 0, 0, side, side]] * 2
    text, latents = backbone.encode_prompt(["a"]), torch.randn(1, *backbone.latent_shape)
    told = backbone.predict(latents, torch.tensor([501.0]), text)
    text.time_ids[:, :2] /= 2
    assert not torch.allclose(told, backbone.predict(latents, torch.tensor([501.0]), text), atol=1e-4)


def test_every_attention_layer_is_a_lora_target(folder):
    backbone = load("sdxl", folder)
    names = [name for name, _ in backbone.unet.named_modules() if ".attn" in name]
    for target in backbone.lora_targets:
        assert any(name.endswith(target) for name in names)


def test_another_vae_replaces_the_pipelines_own(folder, tmp_path):
    torch.manual_seed(1)
    own = AutoencoderKL.from_pretrained(folder / "vae")
    for parameter in own.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    own.register_to_config(force_upcast=False)
    own.save_pretrained(tmp_path / "fixed")
    backbone = SDXL(weights=str(folder), vae=str(tmp_path / "fixed")).load(CPU, FLOAT)
    assert torch.equal(backbone.vae.decoder.conv_in.weight, own.decoder.conv_in.weight)
    half = SDXL(weights=str(folder), vae=str(tmp_path / "fixed")).load(CPU, torch.bfloat16)
    assert half.vae.dtype == torch.bfloat16


def test_its_own_vae_runs_in_float32(folder):
    backbone = SDXL(weights=str(folder), vae=None).load(CPU, torch.bfloat16)
    assert (backbone.vae.dtype, backbone.unet.dtype) == (torch.float32, torch.bfloat16)
    images = backbone.decode(torch.randn(1, *backbone.latent_shape, dtype=torch.bfloat16))
    assert images.dtype == torch.float32


def test_the_default_vae_is_an_asset_that_may_be_missing(folder):
    with pytest.raises(MissingAsset, match="sdxl-vae-fp16-fix"):
        SDXL(weights=str(folder)).assets()


def test_a_folder_of_another_family_is_refused(folder, pipelines):
    with pytest.raises(
        UserError, match="holds a StableDiffusionPipeline; backbone sdxl reads a StableDiffusionXL"
    ):
        SDXL(weights=str(pipelines["sd15"]), vae=None).assets()
    with pytest.raises(UserError, match="backbone sd15 reads a StableDiffusionPipeline"):
        SD15(weights=str(folder)).load(CPU, FLOAT)


def test_a_folder_without_the_second_encoder_is_refused(copied):
    shutil.rmtree(copied / "text_encoder_2")
    with pytest.raises(MissingAsset, match="has no text_encoder_2/"):
        SDXL(weights=str(copied), vae=None).load(CPU, FLOAT)
