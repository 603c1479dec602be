"""Checkpoints that do not fit, or cannot be read: one line that says why, and untouched weights."""

import shutil

import pytest
import torch
from made_checkpoints import changed_policy, kohya_state, peft_folder, refused, sgm_name
from made_pipelines import load
from safetensors.torch import load_file, save_file

from lpobench.plugin import MissingAsset


@pytest.fixture
def sd15(pipelines):
    return load("sd15", pipelines["sd15"])


@pytest.fixture
def lora_file(pipelines, tmp_path):
    changed_policy("sd15", pipelines).export_lora(tmp_path)
    return tmp_path / "pytorch_lora_weights.safetensors"


def test_no_matching_key_is_an_error(lora_file, pipelines):
    backbone = load("sd3", pipelines["sd3"])
    refused(backbone, lora_file, r"no key matches the transformer of sd3; it holds .*attn1.*, \.\.\.$")


def test_a_few_unmatched_keys_are_an_error(sd15, lora_file):
    state = load_file(lora_file) | {"text_encoder.layers.0.q_proj.lora_A.weight": torch.zeros(4, 16)}
    save_file(state, lora_file)
    refused(
        sd15, lora_file, r"1 keys match nothing in the unet of sd15: text_encoder\.layers\.0\.q_proj\.lora_A"
    )


def test_half_a_layer_is_an_error(sd15, lora_file):
    state = load_file(lora_file)
    del state[sorted(state)[0]]
    save_file(state, lora_file)
    refused(sd15, lora_file, "1 keys match nothing in the unet of sd15")


@pytest.mark.parametrize("suffix", ["dora_scale", "hada_w1_a"])
def test_other_kinds_of_adapter_are_an_error(sd15, pipelines, tmp_path, suffix):
    state = kohya_state(changed_policy("sd15", pipelines), sgm_name)
    layer = next(iter(state)).partition(".")[0]
    save_file(state | {f"{layer}.{suffix}": torch.zeros(4)}, tmp_path / "other.safetensors")
    refused(sd15, tmp_path / "other.safetensors", "no key matches the unet of sd15")


def test_dora_is_an_error(sd15, pipelines, tmp_path):
    refused(sd15, peft_folder(changed_policy("sd15", pipelines), tmp_path / "p", use_dora=True), "is a DoRA")


def test_a_lora_of_another_size_is_an_error(lora_file, pipelines):
    refused(load("sdxl", pipelines["sdxl"]), lora_file, "is of another size than sdxl's unet: .*attn2.to_k")


def test_denoisers_of_other_models_are_errors(sd15, pipelines, tmp_path):
    refused(sd15, pipelines["sdxl"], "keys match nothing in the unet of sd15: add_embedding")
    refused(sd15, pipelines["sd3"], "no weights in", MissingAsset)
    state = load_file(pipelines["sd15"] / "unet" / "diffusion_pytorch_model.safetensors")
    name = next(iter(state))
    save_file({key: value for key, value in state.items() if key != name}, tmp_path / "less.safetensors")
    refused(sd15, tmp_path / "less.safetensors", f"lacks 1 of {len(state)} weights of sd15's unet: {name}")
    save_file(state | {name: torch.zeros(1)}, tmp_path / "size.safetensors")
    refused(sd15, tmp_path / "size.safetensors", f"is of another size than sd15's unet: {name}")
    save_file({"model.diffusion_model.out.2.weight": torch.zeros(1)}, tmp_path / "original.safetensors")
    refused(sd15, tmp_path / "original.safetensors", "lacks 207 of 208 weights")
    sd3 = load("sd3", pipelines["sd3"])
    refused(sd3, tmp_path / "original.safetensors", "is of another model than sd3")


def test_adapters_come_after_the_checkpoint(lora_file, pipelines):
    refused(changed_policy("sd15", pipelines), lora_file, "is being trained; load it before that")


class Runs:
    def __reduce__(self):
        return print, ("code of a pickle ran",)


def test_files_that_cannot_be_read(sd15, tmp_path, lora_file):
    refused(sd15, tmp_path / "nowhere", "no such checkpoint", MissingAsset)
    (tmp_path / "empty").mkdir()
    refused(sd15, tmp_path / "empty", "no weights in", MissingAsset)
    (tmp_path / "two").mkdir()
    for name in ("a", "b"):
        shutil.copy(lora_file, tmp_path / "two" / f"{name}.safetensors")
    refused(sd15, tmp_path / "two", "holds several weights; name one of a.safetensors, b.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"not safetensors at all")
    refused(sd15, tmp_path / "broken.safetensors", "cannot be read")
    torch.save({"unet": Runs()}, tmp_path / "code.pt")
    refused(sd15, tmp_path / "code.pt", "cannot be read: it should hold tensors and numbers only")
    torch.save([torch.zeros(1)], tmp_path / "list.pt")
    refused(sd15, tmp_path / "list.pt", "should hold tensors by name")
    save_file(
        load_file(lora_file), tmp_path / "header.safetensors", metadata={"lora_adapter_metadata": "[1]"}
    )
    refused(sd15, tmp_path / "header.safetensors", "header.safetensors cannot be read")
    save_file({}, tmp_path / "nothing.safetensors")
    refused(sd15, tmp_path / "nothing.safetensors", "holds no weights by name")
