"""LRMs in the layout of the published LRM-1.5 and LRM-XL, small and random."""

import os

import made_pipelines
import pytest
import tiny_unet
import torch
from safetensors.torch import save_file

from lpobench.plugin import MissingAsset, UserError
from rewards.lrm import LRM
from rewards.lrm.live import LatentReward
from rewards.lrm.model import LatentRewardModel
from rewards.lrm.noise import NoiseMap

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def sd15():
    return tiny_unet.backbone(latent_space="sd-vae-f8c4")


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory):
    return made_pipelines.load("sdxl", made_pipelines.sdxl(tmp_path_factory.mktemp("sdxl") / "pipeline"))


def write_released(folder, backbone):
    """What the released training code leaves behind: all of the UNet, text encoders with the names of their
    day, the rest in a pickle. Returns the model it holds.
    """
    torch.manual_seed(0)
    model = LatentRewardModel.from_backbone(backbone, 7.5)
    with torch.no_grad():
        model.logit_scale.fill_(3.0)
    backbone.unet.save_pretrained(folder / "unet")
    model.text.text_encoder.config.save_pretrained(folder / "text_encoder")
    old = {f"text_model.{key}": value for key, value in model.text.text_encoder.state_dict().items()}
    old["text_model.embeddings.position_ids"] = torch.arange(12)[None]
    head = {"visual_projection": model.visual_projection.state_dict()}
    if model.text_projection is None:
        save_file(old, folder / "text_encoder/model.safetensors")
        second = model.text.text_encoder_2
        second.config.save_pretrained(folder / "text_encoder_2")
        save_file(dict(second.state_dict()), folder / "text_encoder_2/model.safetensors")
        head |= {"logit_scale": model.logit_scale.item()}
    else:
        torch.save(old, folder / "text_encoder/pytorch_model.bin")
        head |= {
            "text_projection": model.text_projection.state_dict(),
            "logit_scale": model.logit_scale.detach(),
        }
    torch.save(head, folder / "state_dict.pt")
    return model


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_it_loads_and_scores(family, request, tmp_path):
    backbone = request.getfixturevalue(family)
    model = write_released(tmp_path, backbone)
    settings = LRM(weights=tmp_path)
    assert (settings.latent_space, settings.config.backbone) == (backbone.latent_space, family)
    assert settings.config.feature_dim == model.visual_projection.in_features
    assert all(path.is_file() for path in settings.assets().values())
    reward, noisy = settings.load(backbone, CPU, torch.float32), tiny_unet.noisy(["red", "a star"])
    assert reward.model.vfe_scale == 7.5
    expected = LatentReward(model, "any", NoiseMap(backbone.schedule, is_flow=False)).score(noisy)
    torch.testing.assert_close(reward.score(noisy), expected)


def test_the_backbones_tokenizer_pads_as_sd15s(sd15, tmp_path):
    """SD2.1's pads with "!", the published LRM-1.5 was trained with SD1.5's, which pads with the end token."""
    write_released(tmp_path, sd15)
    tokenizer = sd15.tokenizer
    tokenizer.pad_token = "a"
    reward = LRM(weights=tmp_path).load(sd15, CPU, torch.float32)
    assert reward.model.text.tokenizer.pad_token == tokenizer.eos_token
    assert tokenizer.pad_token == "a"
    tokenizer.pad_token = tokenizer.eos_token


def test_a_backbone_of_another_vocabulary_is_refused(sd15, tmp_path):
    write_released(tmp_path, sd15)
    other = tiny_unet.backbone(latent_space="sd-vae-f8c4")
    other.tokenizer.add_tokens(["word"])
    with pytest.raises(UserError, match=r"has no tokenizer/, and the backbone has none of its vocabulary"):
        LRM(weights=tmp_path).load(other, CPU, torch.float32)


class Attack:
    """A pickle that would leave a trace."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


def test_a_pickle_with_code_is_refused_and_not_run(sd15, tmp_path):
    write_released(tmp_path, sd15)
    torch.save({"visual_projection": Attack(tmp_path / "trace")}, tmp_path / "state_dict.pt")
    with pytest.raises(UserError, match=r"state_dict\.pt cannot be read: .* tensors and numbers") as raised:
        LRM(weights=tmp_path).load(sd15, CPU, torch.float32)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "trace").exists()


def test_a_head_that_does_not_fit_is_named(sd15, tmp_path):
    write_released(tmp_path, sd15)
    head = torch.load(tmp_path / "state_dict.pt", weights_only=True)
    torch.save({**head, "text_projection": {"weight": torch.zeros(3, 3)}}, tmp_path / "state_dict.pt")
    with pytest.raises(
        UserError, match=r"state_dict\.pt does not fit: text_projection\.weight is 3 x 3, should be \d+ x \d+"
    ):
        LRM(weights=tmp_path).load(sd15, CPU, torch.float32)
    del head["text_projection"]
    torch.save(head, tmp_path / "state_dict.pt")
    with pytest.raises(UserError, match=r"text_projection\.weight is missing"):
        LRM(weights=tmp_path).load(sd15, CPU, torch.float32)


def test_an_asset_is_found_by_its_name(sd15, tmp_path, monkeypatch):
    monkeypatch.setenv("LPOBENCH_ASSETS", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(MissingAsset, match="no lrm-15 on this machine"):
        _ = LRM(weights="lrm-15").latent_space
    write_released(tmp_path / "lrm-15", sd15)
    assert LRM(weights="lrm-15").latent_space == "sd-vae-f8c4"
    assert LRM.model_validate_json(LRM(weights="lrm-15").model_dump_json()).folder == tmp_path / "lrm-15"
