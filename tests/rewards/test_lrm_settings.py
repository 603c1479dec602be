import pytest
import tiny_unet
import torch
from processes import worked

from lpobench.plugin import MissingAsset, UserError
from rewards.lrm import LRM, LRMConfig
from rewards.lrm.folder import save
from rewards.lrm.model import LatentRewardModel

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path):
    model = LatentRewardModel.from_backbone(tiny_unet.backbone(), 7.5)
    config = LRMConfig(
        backbone="tiny-test",
        latent_space=tiny_unet.LATENT_SPACE,
        vfe_scale=7.5,
        feature_dim=80,
        projection_dim=16,
    )
    save(model, tmp_path / "lrm", config, torch.float32)
    return tmp_path / "lrm"


def test_settings_read_the_latent_space_without_torch(folder):
    code = f"""
import sys
from rewards.lrm import LRM
from rewards.random import RandomReward
assert LRM(weights={str(folder)!r}).latent_space == "{tiny_unet.LATENT_SPACE}"
assert not {{"torch", "transformers", "diffusers", "pandas"}} & set(sys.modules)
"""
    worked(["-c", code])


def test_a_filter_may_be_a_number():
    assert LRM(training={"mpcf": 2}) == LRM(training={"mpcf": "2"})
    for wrong in (4, True, 2.0):
        with pytest.raises(ValueError, match=f"{wrong}"):
            LRM(training={"mpcf": wrong})


def test_json_round_trip(folder):
    for settings in (LRM(), LRM(weights=folder, vfe_scale=1, pairs="one")):
        assert LRM.model_validate_json(settings.model_dump_json()) == settings
    assert LRM(pairs="one").pairs == ("one",)


@pytest.mark.parametrize(("override", "expected"), [(None, 7.5), (3.0, 3.0)])
def test_vfe_scale_comes_from_the_folder_unless_set(folder, override, expected):
    reward = LRM(weights=folder, vfe_scale=override).load(tiny_unet.backbone(), CPU, torch.float32)
    assert reward.model.vfe_scale == expected


def test_half_precision_scores_are_float32_and_close(folder):
    noisy, backbone = tiny_unet.noisy(["red", "blue"]), tiny_unet.backbone()
    full, half = (
        LRM(weights=folder).load(backbone, CPU, dtype).score(noisy)
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, full, atol=0.3, rtol=0)


def test_another_latent_space_is_refused(folder):
    backbone = tiny_unet.backbone(latent_space="sd3-vae-f8c16")
    with pytest.raises(UserError, match="reads latents of test-f8c4, backbone tiny-test makes sd3-vae-f8c16"):
        LRM(weights=folder).load(backbone, CPU, torch.float32)


def test_missing_folder_says_how_to_get_one(tmp_path):
    with pytest.raises(
        MissingAsset, match=f"no LRM in {tmp_path}/none; train one with `lpobench reward train`"
    ):
        _ = LRM(weights=tmp_path / "none").latent_space


@pytest.mark.parametrize("name", ["state_dict.pt", "unet/diffusion_pytorch_model.bin"])
def test_pickles_are_refused(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"\x80\x04.")
    with pytest.raises(UserError, match=f"{name} may run code when read") as raised:
        _ = LRM(weights=tmp_path).latent_space
    assert raised.value.exit_code == 2


def test_a_pickle_file_as_weights_is_refused(tmp_path):
    (tmp_path / "lrm.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(UserError, match=r"lrm\.bin may run code when read"):
        LRM(weights=tmp_path / "lrm.bin").load(tiny_unet.backbone(), CPU, torch.float32)


@pytest.mark.parametrize("content", ["{", '{"backbone": "x"}'])
def test_a_config_that_is_none_is_one_line(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"config\.json does not describe an LRM") as raised:
        _ = LRM(weights=tmp_path).latent_space
    assert "\n" not in str(raised.value)
