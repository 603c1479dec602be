"""Checkpoints put onto a denoiser: whatever their keys, they give the trained policy."""

import json
import re

import pytest
import torch
from made_checkpoints import ALPHA, RANK, changed_policy, kohya_state, output, peft_folder, refused, sgm_name
from made_pipelines import load
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from backbones._diffusers.lora_keys import lora_layers
from lpobench.plugin import MissingAsset

CLOSE = 1e-5


@pytest.fixture(params=["sd15", "sd21-v", "sdxl", "sd3", "sd35", "flux"])
def family(request):
    return request.param


@pytest.fixture
def backbone(family, pipelines):
    """Untouched."""
    return load(family, pipelines[family])


@pytest.fixture
def trained(family, pipelines):
    return changed_policy(family, pipelines)


def assert_loaded(backbone, trained, path):
    before = output(backbone)
    told = backbone.load_checkpoint(path, check_only=True)
    assert output(backbone).equal(before)
    assert backbone.load_checkpoint(path) == told
    assert (output(backbone) - output(trained)).abs().max() < CLOSE
    assert (output(backbone) - before).abs().max() > 1000 * CLOSE
    return told


def test_diffusers_keys(backbone, trained, tmp_path):
    trained.export_lora(tmp_path)
    layers = len(get_peft_model_state_dict(trained.denoiser)) // 2
    told = assert_loaded(backbone, trained, tmp_path)
    assert told == f"LoRA on {layers} layers, rank 4, alpha 6, from pytorch_lora_weights.safetensors"
    assert not [name for name, _ in backbone.denoiser.named_parameters() if "lora" in name]


def test_peft_keys(backbone, trained, tmp_path):
    assert_loaded(backbone, trained, peft_folder(trained, tmp_path / "peft"))


def test_peft_keys_with_the_adapters_name(backbone, trained, tmp_path):
    state = {key: value for key, value in trained.denoiser.state_dict().items() if ".lora_" in key}
    assert all(".default." in key for key in state)
    config = json.dumps({"lora_alpha": ALPHA, "r": RANK})
    save_file(state, tmp_path / "any.safetensors", metadata={"lora_adapter_metadata": config})
    assert_loaded(backbone, trained, tmp_path / "any.safetensors")


def test_kohya_keys(backbone, trained, tmp_path):
    save_file(kohya_state(trained, prefix="lora_unet_"), tmp_path / "kohya.safetensors")
    assert_loaded(backbone, trained, tmp_path / "kohya.safetensors")


@pytest.mark.parametrize("family", ["sd15", "sdxl"], indirect=True)
def test_kohya_keys_of_stability_names(backbone, trained, tmp_path):
    """As kohya's SDXL trainer writes them."""
    state = kohya_state(trained, sgm_name)
    assert "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q.alpha" in state
    save_file(state, tmp_path / "sgm.safetensors")
    assert_loaded(backbone, trained, tmp_path / "sgm.safetensors")


@pytest.mark.parametrize("family", ["sd15"], indirect=True)
def test_each_layer_has_its_own_alpha(backbone, trained, tmp_path):
    """w + alpha / rank * up @ down, alpha 6 and 3 by turns, ranks 4."""
    state = kohya_state(trained)
    for key in sorted(key for key in state if key.endswith("alpha"))[::2]:
        state[key] = torch.tensor(3.0)
    base = {
        name: module.weight.clone()
        for name, module in backbone.denoiser.named_modules()
        if name.endswith("to_q")
    }
    save_file(state, tmp_path / "kohya.safetensors")
    assert "rank 4, alpha 3-6" in backbone.load_checkpoint(tmp_path / "kohya.safetensors")
    for name, weight in base.items():
        flat = f"lora_unet_{name.replace('.', '_')}"
        change = (
            state[f"{flat}.alpha"] / 4 * state[f"{flat}.lora_up.weight"] @ state[f"{flat}.lora_down.weight"]
        )
        torch.testing.assert_close(backbone.denoiser.get_submodule(name).weight, weight + change)


@pytest.mark.parametrize("family", ["sd15"], indirect=True)
def test_alpha_pattern_and_rslora_of_peft(backbone, trained, tmp_path):
    folder = peft_folder(trained, tmp_path / "peft", use_rslora=True, alpha_pattern={"attn1.to_q": 1})
    state = load_file(folder / "adapter_model.safetensors")
    name = "mid_block.attentions.0.transformer_blocks.0.attn{}.to_q"
    before = {i: backbone.denoiser.get_submodule(name.format(i)).weight.clone() for i in (1, 2)}
    backbone.load_checkpoint(folder)
    for i, scale in ((1, 1 / 2), (2, 6 / 2)):  # alpha over the root of rank 4
        up, down = (state[f"base_model.model.{name.format(i)}.lora_{half}.weight"] for half in "BA")
        expected = before[i] + scale * up @ down
        torch.testing.assert_close(backbone.denoiser.get_submodule(name.format(i)).weight, expected)


@pytest.mark.parametrize("family", ["sd15"], indirect=True)
def test_without_an_alpha_the_rank_is_taken_and_said(backbone, trained, tmp_path):
    trained.export_lora(tmp_path)
    file = tmp_path / "pytorch_lora_weights.safetensors"
    save_file(load_file(file), file)
    for layer in trained.denoiser.modules():
        if hasattr(layer, "scaling"):
            layer.scaling["default"] = 1.0
    assert "rank 4, alpha not stated and so the rank, from" in assert_loaded(backbone, trained, file)


@pytest.mark.parametrize("family", ["sd15", "sd21-v", "sdxl", "sd3", "sd35"], indirect=True)
def test_lora_of_a_convolution(backbone):
    """up (out, r, 1, 1) and down (r, in, h, w) find the layer by its name."""
    names = [
        name for name, module in backbone.denoiser.named_modules() if isinstance(module, torch.nn.Conv2d)
    ]
    weight = backbone.denoiser.get_submodule(names[0]).weight
    down, up = torch.randn(2, *weight.shape[1:]), torch.randn(len(weight), 2, 1, 1)
    state = {f"{names[0]}.lora_A.weight": down, f"{names[0]}.lora_B.weight": up}
    layers, unmatched = lora_layers(backbone.denoiser, backbone.component, state)
    assert (list(layers), unmatched) == ([names[0]], [])


def merged(trained, folder):
    """The trained denoiser with its adapters fused, in a folder of its own."""
    trained.denoiser.fuse_lora()
    trained.denoiser.unload_lora()
    trained.denoiser.save_pretrained(folder)
    return folder


def test_merged_denoiser(backbone, trained, tmp_path):
    expected = output(trained)
    merged(trained, tmp_path / trained.component)
    told = backbone.load_checkpoint(tmp_path)
    assert re.fullmatch(
        r"all \d+ weights of the (unet|transformer), from diffusion_pytorch_model.safetensors", told
    )
    assert (output(backbone) - expected).abs().max() < CLOSE
    assert output(trained).equal(output(backbone))
    for path in (tmp_path / trained.component, next(tmp_path.rglob("*.safetensors"))):
        assert backbone.load_checkpoint(path) == told


@pytest.mark.parametrize("family", ["sd15"], indirect=True)
def test_merged_denoiser_in_shards_and_as_a_plain_pickle(backbone, trained, tmp_path):
    state = load_file(next(merged(trained, tmp_path / "whole").glob("*.safetensors")))
    trained.denoiser.save_pretrained(tmp_path / "shards", max_shard_size="100KB")
    shards = sorted((tmp_path / "shards").glob("*.safetensors"))
    assert len(shards) > 2
    backbone.load_checkpoint(tmp_path / "shards")
    assert output(trained).equal(output(backbone))
    shards[1].unlink()
    refused(backbone, tmp_path / "shards", f"holds {len(shards) - 1} of {len(shards)} files", MissingAsset)
    torch.save({"state_dict": {key: value + 0.01 for key, value in state.items()}}, tmp_path / "new.bin")
    for file in (tmp_path / "whole").iterdir():
        file.unlink()
    torch.save(state, tmp_path / "whole" / "diffusion_pytorch_model.bin")
    backbone.load_checkpoint(tmp_path / "whole")
    assert output(trained).equal(output(backbone))
    backbone.load_checkpoint(tmp_path / "new.bin")
    assert not output(trained).equal(output(backbone))


@pytest.mark.parametrize("family", ["sd15", "sdxl"], indirect=True)
def test_single_file_in_stability_names(backbone, trained, tmp_path):
    """A whole model in one file: the denoiser is read, the rest is left."""
    state = load_file(next(merged(trained, tmp_path / "unet").glob("*.safetensors")))
    whole = {f"model.diffusion_model.{sgm_name(name)}": value for name, value in state.items()}
    assert len(whole) == len(state)
    save_file(
        whole | {"first_stage_model.decoder.conv_in.weight": torch.zeros(1)}, tmp_path / "model.safetensors"
    )
    assert "all" in backbone.load_checkpoint(tmp_path / "model.safetensors")
    assert output(trained).equal(output(backbone))
