"""SPM's folder, the released files, and its settings."""

import json
import shutil

import made_clip
import pytest
import tiny_unet
import torch
from processes import worked
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from lpobench.data import assets
from lpobench.plugin import MissingAsset, UserError
from rewards.spm import SPM, SPMConfig, SPMTraining
from rewards.spm.folder import ClipPlaces, from_clip, load, save

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return made_clip.folder(tmp_path_factory.mktemp("clip"))


@pytest.fixture
def model(clip):
    """Away from its start."""
    made = from_clip(ClipPlaces.inside(clip), seed=0)
    torch.manual_seed(1)
    for parameter in made.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    return made


@pytest.fixture
def folder(model, tmp_path):
    save(model, tmp_path / "spm", SPMConfig(backbone="tiny-test"), torch.float32)
    return tmp_path / "spm"


def released(model, path, prefix: str = "model."):
    """A file in the released layout: names of the released code, under "model."."""
    names = {}
    for key, value in model.state_dict().items():
        part, _, rest = key.partition(".")
        if part == "layers":
            number, _, kind = rest.partition(".")
            rest, part = f"vision_model.encoder.layers.{number}.adaLN_modulation.1.{kind}", ""
        starts = {"clip": "", "final": "vision_model.adaLN_modulation.1.", "time": "t_embedder.mlp.", "": ""}
        names[f"{prefix}{starts[part]}{rest}"] = value
    names[f"{prefix}text_model.embeddings.position_ids"] = torch.arange(12)[
        None
    ]  # transformers 4.27 stored them
    torch.save(names, path) if path.suffix == ".bin" else save_file(names, path)
    return path


def test_the_start_holds_the_clips_own_weights(clip):
    made, stored = from_clip(ClipPlaces.inside(clip), seed=0), load_file(clip / "model.safetensors")
    weights = made.clip.state_dict()
    assert weights.keys() == stored.keys()
    assert all(torch.equal(value, stored[key]) for key, value in weights.items())
    again, other = (from_clip(ClipPlaces.inside(clip), seed) for seed in (0, 1))
    assert torch.equal(made.time[0].weight, again.time[0].weight)
    assert not torch.equal(made.time[0].weight, other.time[0].weight)
    gates = made.layers[0].bias.view(6, -1).unique(dim=1).flatten()
    assert gates.tolist() == [0, 0, 1, 0, 0, 1]


def test_folder_round_trip_is_bit_exact(model, folder):
    again = load(folder)
    weights = again.state_dict()
    assert weights.keys() == model.state_dict().keys()
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())
    assert again.preprocessing == model.preprocessing
    assert again.tokenizer(["a red star"]).input_ids == model.tokenizer(["a red star"]).input_ids
    assert SPM(weights=folder).config == SPMConfig(backbone="tiny-test")


def test_half_the_size_but_the_logit_scale(model, tmp_path):
    save(model, tmp_path, SPMConfig(backbone="tiny-test"), torch.float16)
    stored = load_file(tmp_path / "model.safetensors")
    assert {key for key, value in stored.items() if value.dtype != torch.float16} == {"clip.logit_scale"}
    assert {value.dtype for value in load(tmp_path).state_dict().values()} == {torch.float32}


@pytest.mark.parametrize("name", ["sd-v1-5_spm.bin", "sdxl_spm.safetensors"])
def test_released_files_are_read(model, clip, tmp_path, name):
    place = released(model, tmp_path / name)
    settings = SPM(weights=place, clip=str(clip))
    again = load(place, settings.clip_places()).state_dict()
    assert all(torch.equal(value, again[key]) for key, value in model.state_dict().items())
    assert settings.config.backbone == ("sdxl" if "sdxl" in name else "sd15")
    assert settings.assets() == {"SPM's weights": place, "CLIP": clip}


def test_pickscore_has_its_tokenizer_elsewhere(clip, tmp_path, monkeypatch):
    """Assets: the model of one repository, tokenizer and preprocessing of another."""
    monkeypatch.setenv("LPOBENCH_ASSETS", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "pickscore").mkdir()
    (tmp_path / "clip-vit-h14").mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(clip / name, tmp_path / "pickscore" / name)
        shutil.copy(clip / name, tmp_path / "clip-vit-h14" / name)
    (tmp_path / "clip-vit-h14" / "vocab.json").write_text(json.dumps(tiny_unet.tokenizer().get_vocab()))
    (tmp_path / "clip-vit-h14" / "merges.txt").write_text("#version: 0.2\n")
    config = {"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 1, 1]}
    (tmp_path / "clip-vit-h14" / "preprocessor_config.json").write_text(json.dumps(config))
    assert assets.locate("pickscore") == tmp_path / "pickscore"

    with pytest.raises(MissingAsset, match=r"no tokenizer in .*pickscore; reward\.processor names a folder"):
        from_clip(SPM(clip="pickscore").clip_places(), 0)
    settings = SPM(clip="pickscore", processor="clip-vit-h14")
    made = from_clip(settings.clip_places(), 0)
    assert made.preprocessing.mean == (0.1, 0.2, 0.3)
    assert made.preprocessing.size == made_clip.SIDE
    data = settings.training_data()
    assert data["CLIP"] == tmp_path / "pickscore"
    assert data["CLIP's processor"] == tmp_path / "clip-vit-h14"
    with pytest.raises(MissingAsset, match="no spm-15 on this machine"):
        SPM(weights="spm-15").assets()


def test_settings_are_read_without_torch(folder):
    code = f"""
import sys
from rewards.spm import SPM
assert SPM(weights={str(folder)!r}).config.backbone == "tiny-test"
assert SPM().latent_space is None
assert not {{"torch", "transformers", "diffusers", "pandas"}} & set(sys.modules)
"""
    worked(["-c", code])


def test_json_round_trip(folder):
    for settings in (SPM(), SPM(weights=folder, clip="pickscore", pairs="one", training={"bank": 0})):
        assert SPM.model_validate_json(settings.model_dump_json()) == settings


def test_a_bank_and_fresh_posterior_draws_exclude_each_other():
    with pytest.raises(
        ValidationError, match="bank 4 holds posterior means; for posterior sample it should be 0"
    ):
        SPMTraining(posterior="sample")
    assert SPMTraining(posterior="sample", bank=0).bank == 0


def test_missing_weights_say_how_to_get_some(tmp_path):
    with pytest.raises(
        MissingAsset, match=r"no SPM in .*none; train one with `lpobench reward train --reward spm`"
    ):
        SPM(weights=tmp_path / "none").assets()


@pytest.mark.parametrize("content", ["{", '{"backbone": "x", "vfe_scale": 7.5}', "{}"])
def test_a_config_that_is_none_is_one_line(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"config\.json does not describe an SPM") as raised:
        _ = SPM(weights=tmp_path).config
    assert "\n" not in str(raised.value)


def test_a_clip_of_another_size_is_refused(folder, tmp_path):
    made_clip.folder(tmp_path / "larger", side=32)
    shutil.copy(tmp_path / "larger" / "config.json", folder / "clip" / "config.json")
    with pytest.raises(UserError, match=r"model\.safetensors does not fit: \S+ is .*, should be ") as raised:
        SPM(weights=folder).load(tiny_unet.backbone(), CPU, torch.float32)
    assert "\n" not in str(raised.value)


def test_a_tokenizer_of_another_vocabulary_is_refused(clip, tmp_path):
    wrong = tmp_path / "clip"
    shutil.copytree(clip, wrong)
    config = json.loads((clip / "config.json").read_text())
    config["text_config"]["vocab_size"] = 60
    (wrong / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"knows 54 tokens, the CLIP in .* 60"):
        from_clip(ClipPlaces.inside(wrong), 0)


def test_a_missing_clip_says_what_it_may_be(tmp_path):
    with pytest.raises(
        MissingAsset, match=r"no CLIP in .*none; it should be tiny-clip, a folder, or an asset"
    ):
        SPM(clip=str(tmp_path / "none")).training_data()


def test_what_is_no_clip_is_refused(tmp_path):
    with pytest.raises(MissingAsset, match=r"no CLIP in .*: it has no config\.json"):
        from_clip(ClipPlaces.inside(tmp_path), 0)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UserError, match="describes a bert, an SPM is made of a clip"):
        from_clip(ClipPlaces.inside(tmp_path), 0)


@pytest.mark.parametrize("name", ["spm.bin", "spm.safetensors"])
def test_a_damaged_file_is_one_line(clip, tmp_path, name):
    (tmp_path / name).write_bytes(b"\x80\x02 nothing")
    with pytest.raises(UserError, match="cannot be read") as raised:
        load(tmp_path / name, ClipPlaces.inside(clip))
    assert "\n" not in str(raised.value)
