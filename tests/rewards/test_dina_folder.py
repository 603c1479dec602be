"""A DiNa-LRM's folder, ours and released, and what is said of one that does not fit."""

import json

import made_dina
import made_pipelines
import pytest
import torch
from made_dina import CPU, PROMPTS, QUICK, latents
from safetensors.torch import load_file, save_file

from lpobench.plugin import MissingAsset, UserError
from lpobench.sampling import Noisy
from rewards.dina import DiNa, read_config
from rewards.dina.folder import load, save
from rewards.dina.train import describe

FLOAT = torch.float32


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return made_dina.around(made_pipelines.sd35(tmp_path_factory.mktemp("sd35")))


@pytest.fixture(scope="module")
def model(backbone):
    return made_dina.model(backbone)


@pytest.fixture
def folder(model, backbone, tmp_path):
    return made_dina.folder_of(model, backbone, tmp_path / "ours")


@pytest.fixture
def released(model, folder, tmp_path):
    """The same weights in the published layout: a config of sections, a pickled head, peft's names."""
    place = tmp_path / "released"
    (place / "backbone_lora").mkdir(parents=True)
    config = {
        "backbone_model_id": "stabilityai/stable-diffusion-3.5-medium",
        "num_transformer_layers": 2,
        "freeze_backbone": False,
        "use_lora": True,
        "lora_config": {"r": 4, "lora_alpha": 8, "init_lora_weights": "gaussian"},
        "visual_head_idx": [1, 2],
        "text_head_idx": [1, 2],
        "reward_head": {
            "use_proj_in": False,
            "width": -1,
            "out_dim": 1,
            "num_queries": 4,
            "num_attn_heads": 8,
        },
    }
    (place / "config.json").write_text(json.dumps({"model": config, "training": {"learning_rate": 5e-5}}))
    torch.save(model.head.state_dict(), place / "rm_head.pt")
    lora = {
        f"base_model.model.{key}": value for key, value in load_file(folder / "rm_lora.safetensors").items()
    }
    save_file(lora, place / "backbone_lora" / "adapter_model.safetensors")
    return place


@torch.no_grad()
def scores(backbone, folder) -> torch.Tensor:
    policy = made_dina.policy(backbone, adapter=False)
    reward = DiNa(weights=folder).load(backbone, CPU, FLOAT)
    return reward.score(Noisy.finished(latents(backbone, 3), PROMPTS[:3], policy))


def test_round_trip_is_bit_exact(backbone, model, folder):
    again = load(folder, backbone, shared=True)
    assert again.trainable().keys() == model.trainable().keys()
    assert all(torch.equal(value, again.trainable()[name]) for name, value in model.trainable().items())
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "head.safetensors",
        "rm_lora.safetensors",
    }
    assert set(DiNa(weights=folder).assets().values()) == set(folder.glob("*.safetensors"))


def test_config_says_what_it_is(folder):
    config = read_config(folder)
    assert (config.backbone, config.latent_space, config.t5_tokens) == ("sd35", "sd3-vae-f8c16", 0)
    assert (config.layers, config.visual_taps, config.text_taps) == (2, (1, 2), (1, 2))
    assert (config.rank, config.alpha, config.training["loss"]) == (4, 8, "thurstone")
    settings = DiNa(weights=folder, ensemble="all")
    assert DiNa.model_validate_json(settings.model_dump_json()) == settings
    assert settings.measured() == {}


def test_half_precision_is_half_the_size(backbone, model, folder, tmp_path):
    save(model, tmp_path / "half", read_config(folder), torch.float16)
    sizes = [
        sum(path.stat().st_size for path in place.glob("*.safetensors"))
        for place in (folder, tmp_path / "half")
    ]
    assert sizes[1] < 0.65 * sizes[0]
    torch.testing.assert_close(
        scores(backbone, tmp_path / "half"), scores(backbone, folder), atol=1e-2, rtol=1e-2
    )


def test_a_trained_logistic_travels_with_the_head(backbone, tmp_path):
    model = made_dina.model(backbone, logistic=True)
    model.logistic.eta3.data.fill_(0.7)
    folder = made_dina.folder_of(model, backbone, tmp_path, logistic=True)
    assert load(folder, backbone, shared=True).logistic.eta3.item() == pytest.approx(0.7)
    assert load(folder, backbone, shared=True, logistic=False).logistic is None
    assert scores(backbone, folder).abs().max() < 2


def test_the_released_layout_scores_the_same(backbone, folder, released):
    config = read_config(released)
    assert (config.backbone, config.layers, config.visual_taps, config.alpha) == ("sd35", 2, (1, 2), 8)
    assert config.t5_tokens is None  # it does not say
    assert config.head == read_config(folder).head
    assert torch.equal(scores(backbone, released), scores(backbone, folder))


def test_the_released_weights_may_lie_in_a_folder_of_their_own(backbone, folder, released):
    """As its own code looks for them."""
    (released / "checkpoint").mkdir()
    for name in ("rm_head.pt", "backbone_lora"):
        (released / name).rename(released / "checkpoint" / name)
    assert torch.equal(scores(backbone, released), scores(backbone, folder))
    assert all(path.is_file() for path in DiNa(weights=released).assets().values())


def test_keys_that_do_not_fit_are_named_in_one_line(backbone, released):
    head = torch.load(released / "rm_head.pt", weights_only=True)
    head["attn1.gate.weight"] = head.pop("attn1.gate_vis.0.weight")
    torch.save(head, released / "rm_head.pt")
    message = (
        r"rm_head\.pt does not fit: 1 missing: attn1\.gate_vis\.0\.weight; 1 unexpected: attn1\.gate\.weight$"
    )
    with pytest.raises(UserError, match=message):
        load(released, backbone, shared=True)


def test_sizes_that_do_not_fit_are_named(backbone, folder):
    head = load_file(folder / "head.safetensors")
    head["head.weight"] = torch.zeros(1, 8)
    save_file(head, folder / "head.safetensors")
    with pytest.raises(UserError, match=r"does not fit: head\.weight is \[1, 8\], not \[1, 32\]"):
        load(folder, backbone, shared=True)


def test_adapted_layers_that_are_not_there_are_named(backbone, folder):
    """Of a block that is cut off, or of none."""
    lora = load_file(folder / "rm_lora.safetensors")
    lora["transformer_blocks.3.attn.to_q.lora_A.weight"] = torch.zeros(4, 32)
    save_file(lora, folder / "rm_lora.safetensors")
    message = r"adapts 1 layers that the first 2 blocks of sd35 lack: transformer_blocks\.3\.attn\.to_q$"
    with pytest.raises(UserError, match=message):
        load(folder, backbone, shared=True)


class Payload:
    def __reduce__(self):
        return print, ("run",)


def test_a_head_that_could_run_code_is_refused(backbone, released, capsys):
    torch.save({"head.weight": Payload()}, released / "rm_head.pt")
    with pytest.raises(
        UserError, match=r"rm_head\.pt cannot be read: it should hold tensors and numbers only"
    ):
        load(released, backbone, shared=True)
    assert "run" not in capsys.readouterr().out
    torch.save([torch.zeros(1)], released / "rm_head.pt")
    with pytest.raises(UserError, match="should hold tensors by name"):
        load(released, backbone, shared=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "does not describe a DiNa-LRM"),
        ("[]", "does not describe a DiNa-LRM"),
        ('{"format": "dina-1"}', "does not describe a DiNa-LRM: backbone: Field required"),
        ('{"model": {"backbone_model_id": "x"}}', "KeyError"),
        ('{"format": "lrm"}', "does not describe a DiNa-LRM: format"),
    ],
)
def test_configs_that_are_not_one(tmp_path, text, message):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=message):
        read_config(tmp_path)


def test_a_released_config_of_an_unknown_backbone(released):
    document = json.loads((released / "config.json").read_text())
    document["model"]["backbone_model_id"] = "black-forest-labs/FLUX.1-dev"
    (released / "config.json").write_text(json.dumps(document))
    with pytest.raises(
        UserError, match=r"backbone_model_id black-forest-labs/FLUX\.1-dev is none of stabilityai"
    ):
        read_config(released)


def test_what_is_not_there(backbone, folder, tmp_path):
    with pytest.raises(
        MissingAsset, match=r"no DiNa-LRM in .*; train one with `lpobench reward train --reward dina`"
    ):
        read_config(tmp_path / "nowhere")
    (folder / "rm_lora.safetensors").unlink()
    with pytest.raises(UserError, match=r"rm_lora\.safetensors cannot be read"):
        load(folder, backbone, shared=True)


def test_settings_are_checked():
    for bad in (
        {"level": 1.5},
        {"ensemble_levels": ()},
        {"ensemble_levels": (0.2, -0.1)},
        {"ensemble": "some"},
    ):
        with pytest.raises(ValueError, match=next(iter(bad))):
            DiNa(**bad)
    assert DiNa().folder.name == "dina-tiny-sd3"
    assert QUICK.alpha is None


def test_describe_doubles_the_rank(backbone):
    """alpha 128 of rank 64, as published, by ratio."""
    config = describe(DiNa(training=QUICK.model_copy(update={"rank": 64})), backbone, seed=0)
    assert config.alpha == 128
