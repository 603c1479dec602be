"""Where weights come from: folders, other VAEs, single files, hub ids; and what is wrong with them, in one line."""

import json
import shutil
from pathlib import Path

import ldm_file
import made_pipelines
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from backbones.sd import SD15, SD21V
from backbones.sd3 import SD3Medium
from backbones.sdxl import SDXL
from lpobench.plugin import MissingAsset, UserError

CPU, FLOAT = torch.device("cpu"), torch.float32


@pytest.fixture
def copy(pipelines, tmp_path) -> Path:
    """A pipeline of SD1.5's kind, to be broken."""
    return shutil.copytree(pipelines["sd15"], tmp_path / "copy")


@pytest.fixture(autouse=True)
def nothing_downloaded(tmp_path, monkeypatch):
    for variable in ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "LPOBENCH_ASSETS"):
        monkeypatch.delenv(variable, raising=False)
    for variable in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / "empty"))


def edit(file: Path, **changes) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def same(ours: torch.nn.Module, theirs: torch.nn.Module) -> bool:
    a, b = ours.state_dict(), theirs.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize(
    ("family", "settings", "message"),
    [
        ("sdxl", SD15, "holds a StableDiffusionXLPipeline; backbone sd15 reads a StableDiffusionPipeline"),
        ("sd15", SDXL, "holds a StableDiffusionPipeline; backbone sdxl reads a StableDiffusionXLPipeline"),
        ("sd15", SD3Medium, "holds a StableDiffusionPipeline; backbone sd3"),
        ("sd15", SD21V, "predicts epsilon, its scheduler config says; backbone sd21-v is for v_prediction"),
        ("sd21-v", SD15, "predicts v_prediction, its scheduler config says; backbone sd15 is for epsilon"),
    ],
)
def test_another_familys_folder_is_refused_before_weights_are_read(
    family, settings, message, pipelines, monkeypatch
):
    monkeypatch.setattr("backbones._diffusers.parts.load_part", None)
    with pytest.raises(UserError, match=message):
        settings(weights=pipelines[family]).assets()
    with pytest.raises(UserError, match=message):
        settings(weights=pipelines[family]).load(CPU, FLOAT)


def breakages(folder: Path):
    index = folder / "model_index.json"
    return {
        "no index": (index.unlink, UserError, "has no model_index.json"),
        "not JSON": (lambda: index.write_text("{"), UserError, "model_index.json is not JSON"),
        "a list": (lambda: index.write_text("[]"), UserError, "is not a JSON object"),
        "no UNet": (lambda: shutil.rmtree(folder / "unet"), MissingAsset, "has no unet/, which its"),
        "null UNet": (lambda: edit(index, unet=[None, None]), UserError, "has no unet, its model_index"),
        "no scheduler": (
            (folder / "scheduler" / "scheduler_config.json").unlink,
            MissingAsset,
            "has no scheduler_config.json",
        ),
    }


@pytest.mark.parametrize("name", breakages(Path()))
def test_a_broken_folder_is_one_line(name, copy):
    damage, kind, message = breakages(copy)[name]
    damage()
    with pytest.raises(kind, match=message) as caught:
        SD15(weights=copy).load(CPU, FLOAT)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == (3 if kind is MissingAsset else 2)


def test_the_published_model_is_an_asset():
    for settings in (SD15(), SD21V(), SDXL(), SD3Medium()):
        with pytest.raises(MissingAsset, match=f"{settings.asset} on this machine.*lpobench download"):
            settings.assets()


def test_an_asset_in_its_place_is_found(pipelines, tmp_path, monkeypatch):
    monkeypatch.setenv("LPOBENCH_ASSETS", str(tmp_path))
    place = shutil.copytree(pipelines["sd15"], tmp_path / "sd15")
    for name in ("vocab.json", "merges.txt"):  # the table lists them; ours are in tokenizer.json
        (place / "tokenizer" / name).touch()
    assert SD15().assets() == {"weights": place}


def test_places_that_hold_nothing_are_missing(tmp_path):
    with pytest.raises(MissingAsset, match="no such model folder"):
        SD15(weights="./nowhere").assets()
    with pytest.raises(MissingAsset, match="organisation/name"):
        SD15(weights="organisation/name@main").assets()
    (tmp_path / "sd.ckpt").touch()
    with pytest.raises(UserError, match="is a pickle and is not read"):
        SD15(weights=tmp_path / "sd.ckpt").assets()
    (tmp_path / "sd.gguf").touch()
    with pytest.raises(UserError, match="neither a pipeline folder nor a"):
        SD15(weights=tmp_path / "sd.gguf").assets()


def test_weights_stored_in_half_precision_only_are_read(copy, pipelines):
    for name, file in (("unet", "diffusion_pytorch_model"), ("text_encoder", "model")):
        whole = copy / name / f"{file}.safetensors"
        half = {key: value.half() for key, value in load_file(whole).items()}
        save_file(half, copy / name / f"{file}.fp16.safetensors", metadata={"format": "pt"})
        whole.unlink()
    backbone, full = (SD15(weights=folder).load(CPU, FLOAT) for folder in (copy, pipelines["sd15"]))
    assert same(backbone.unet.half(), full.unet.half())
    stock = backbone.stock_pipeline()
    assert same(stock.unet, backbone.unet.float())
    assert same(stock.text_encoder, backbone.text_encoder)


def test_another_vae_takes_the_pipelines_place(pipelines, copy):
    weights = load_file(copy / "vae" / "diffusion_pytorch_model.safetensors")
    other = {key: value + 1 for key, value in weights.items()}
    save_file(other, copy / "vae" / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    for place in (copy, copy / "vae"):
        settings = SD15(weights=pipelines["sd15"], vae=place)
        assert settings.assets() == {"weights": pipelines["sd15"], "VAE": copy / "vae"}
    backbone = settings.load(CPU, FLOAT)
    assert torch.equal(backbone.vae.state_dict()["quant_conv.weight"], other["quant_conv.weight"])
    assert same(backbone.stock_pipeline().vae, backbone.vae)
    assert backbone.source.has("unet")
    for place, message in ((copy / "unet", "not AutoencoderKL"), (copy / "tokenizer", "holds no VAE")):
        with pytest.raises(UserError, match=message):
            SD15(weights=pipelines["sd15"], vae=place).assets()


@pytest.fixture
def single(pipelines, tmp_path) -> Path:
    """The weights in one file with the original names, beside configs and tokenizers without weights."""
    leave = shutil.ignore_patterns("*.safetensors")
    folder = shutil.copytree(pipelines["sd15"], tmp_path / "single", ignore=leave)
    return ldm_file.write(made_pipelines.stock("sd15", pipelines["sd15"]), folder / "sd.safetensors")


def test_a_single_file_is_the_folder_it_was_made_of(single, pipelines, tmp_path):
    settings = SD15(weights=single)
    assert settings.assets() == {"weights": single, "configs": single.parent}
    backbone, folder = settings.load(CPU, FLOAT), SD15(weights=pipelines["sd15"]).load(CPU, FLOAT)
    for name in ("unet", "vae", "text_encoder"):
        assert same(getattr(backbone, name), getattr(folder, name)), name
    latents, t = torch.randn(1, *backbone.latent_shape), torch.tensor([501.0])
    text = backbone.encode_prompt(["a red"])
    stock = backbone.stock_pipeline()
    torch.testing.assert_close(backbone.predict(latents, t, text), folder.predict(latents, t, text))
    assert same(stock.unet, backbone.unet)
    assert same(stock.vae, backbone.vae)


def test_a_single_file_needs_configs_and_says_so(single, tmp_path):
    alone = shutil.copy(single, tmp_path / "alone.safetensors")
    with pytest.raises(MissingAsset, match=r"holds no tokenizer and no configs.*lpobench download sd15"):
        SD15(weights=alone).assets()


def test_a_bad_single_file_is_one_line(single):
    weights = load_file(single)
    save_file({f"joint_blocks.{key}": value for key, value in weights.items()}, single)
    with pytest.raises(UserError, match="is not a StableDiffusionPipeline in one file"):
        SD15(weights=single).load(CPU, FLOAT)
    save_file({key: value for key, value in weights.items() if "output_blocks.1" not in key}, single)
    with pytest.raises(UserError, match=r"sd\.safetensors") as caught:
        SD15(weights=single).load(CPU, FLOAT)
    assert "\n" not in str(caught.value)
    single.write_bytes(b"not safetensors")
    with pytest.raises(UserError, match="cannot be read as safetensors"):
        SD15(weights=single).load(CPU, FLOAT)


def test_settings_are_checked_and_survive_json(pipelines):
    with pytest.raises(ValidationError, match="should be a multiple of 8, got 100"):
        SD15(resolution=100)
    with pytest.raises(ValidationError, match="should be a multiple of 16, got 1032"):
        SD3Medium(resolution=1032)
    settings = SD15(weights=pipelines["sd15"], resolution=96, text_encoders="release")
    assert SD15.model_validate_json(settings.model_dump_json()) == settings
