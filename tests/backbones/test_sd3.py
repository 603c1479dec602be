"""What is SD3's own: T5 or zeros in its place, pooled text of two encoders, the flow's schedule."""

import json
import shutil

import pytest
import torch
from made_pipelines import CPU, FLOAT, PROMPTS, call_options, load, stock
from pydantic import ValidationError

from backbones.sd3 import SD3Medium, SD35Medium
from backbones.tiny import TinySD3
from lpobench.plugin import UserError
from lpobench.sampling import RectifiedFlow


@pytest.fixture
def folder(pipelines):
    return pipelines["sd3"]


@pytest.mark.parametrize("family", ["sd3", "sd35"])
def test_text_is_what_the_stock_pipeline_encodes(family, pipelines):
    """CLIP's two encoders side by side, padded to T5's width; T5's tokens, or as many zeros; "" is encoded."""
    pipeline = stock(family, pipelines[family])
    text, negative, pooled, negative_pooled = pipeline.encode_prompt(
        PROMPTS, None, None, **call_options(family)
    )
    ours = load(family, pipelines[family]).encode_prompt([*PROMPTS, ""])
    torch.testing.assert_close(ours.prompt_embeds, torch.cat([text, negative[:1]]), atol=1e-5, rtol=1e-5)
    assert torch.equal(ours.pooled, torch.cat([pooled, negative_pooled[:1]]))
    assert ours.prompt_embeds.shape == (5, 12 + 8, 40)
    assert ours.prompt_embeds[:, 12:].any() == (family == "sd3")


def test_t5_may_be_left_out(folder):
    backbone = SD3Medium(weights=str(folder), t5="off", t5_tokens=3).load(CPU, FLOAT)
    assert backbone.text_encoder_3 is None
    text = backbone.encode_prompt(["a"]).prompt_embeds
    assert text.shape == (1, 12 + 3, 40)
    assert not text[:, 12:].any()
    full = load("sd3", folder).encode_prompt(["a"]).prompt_embeds
    assert torch.equal(text[:, :12], full[:, :12])


def test_t5_on_the_cpu_stays_there_and_is_never_in_float16(folder, monkeypatch):
    settings = SD3Medium(weights=str(folder), t5="cpu", t5_tokens=8, text_encoders="offload")
    backbone = settings.load(CPU, torch.float16)
    assert backbone.text_encoder_3.dtype == torch.bfloat16
    assert backbone.text_encoder.dtype == torch.float16
    moves = []
    for name in backbone.encoders:
        monkeypatch.setattr(
            getattr(backbone, name), "to", lambda device, name=name: moves.append((name, str(device)))
        )
    backbone.device = torch.device("cuda")
    with backbone.encoding():
        assert moves == [("text_encoder", "cuda"), ("text_encoder_2", "cuda")]
    assert moves[2:] == [("text_encoder", "cpu"), ("text_encoder_2", "cpu")]
    backbone.device = CPU
    assert backbone._encode_t5(["a"]).dtype == torch.float16


def test_released_encoders_are_gone(folder):
    backbone = load("sd3", folder)
    backbone.release_text_encoders()
    assert backbone.text_encoder is backbone.text_encoder_2 is backbone.text_encoder_3 is None
    with pytest.raises(UserError, match="backbone sd3 has released its text encoders"):
        backbone.encode_prompt(["a"])


def test_a_folder_without_t5_says_what_to_set(pipelines):
    with pytest.raises(UserError, match=r"has no text_encoder_3, which is T5's; set backbone\.t5 to off"):
        SD35Medium(weights=str(pipelines["sd35"])).assets()


def test_lora_reaches_both_streams(folder):
    backbone = load("sd3", folder)
    names = [name for name, _ in backbone.transformer.named_modules()]
    for target in backbone.lora_targets:
        assert any(name.endswith(target) for name in names), target


def test_schedule_is_the_configs(folder):
    schedule = load("sd3", folder).schedule
    assert isinstance(schedule, RectifiedFlow)
    assert (schedule.shift, schedule.prediction) == (3.0, "flow")
    assert RectifiedFlow.from_scheduler_config({}).shift == 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_dynamic_shifting": True}, "use_dynamic_shifting is set"),
        ({"shift_terminal": 0.02}, "shift_terminal is set"),
        ({"use_karras_sigmas": True}, "use_karras_sigmas is set"),
        ({"num_train_timesteps": 500}, "num_train_timesteps is 500, not 1000"),
    ],
)
def test_other_flow_schedules_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        RectifiedFlow.from_scheduler_config({"shift": 3.0} | change)


def test_resolution_is_whole_patches_the_transformer_has_places_for(folder):
    assert SD3Medium(weights=str(folder), t5="off", resolution=96).load(CPU, FLOAT).latent_shape == (
        16,
        12,
        12,
    )
    with pytest.raises(ValidationError, match="should be a multiple of 16, got 72"):
        SD3Medium(resolution=72)
    with pytest.raises(UserError, match="resolution 160 is more than the positions sd3 knows: 128 at most"):
        SD3Medium(weights=str(folder), t5="off", resolution=160).load(CPU, FLOAT)


def test_sliced_attention_is_refused():
    with pytest.raises(ValidationError, match="no sliced attention"):
        SD3Medium(attention_slicing=True)


def test_an_epsilon_scheduler_in_the_folder_is_refused(folder, pipelines, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    shutil.copy(pipelines["sd15"] / "scheduler" / "scheduler_config.json", tmp_path / "copy" / "scheduler")
    with pytest.raises(
        UserError, match="predicts epsilon, its scheduler config says; backbone sd3 is for flow"
    ):
        SD3Medium(weights=str(tmp_path / "copy")).assets()


def test_the_embedded_sibling_differs_in_defaults_only(pipelines):
    tiny = TinySD3(weights=str(pipelines["sd35"]), t5_tokens=8).load(CPU, FLOAT)
    same = load("sd35", pipelines["sd35"])
    ours, theirs = tiny.encode_prompt(PROMPTS), same.encode_prompt(PROMPTS)
    assert torch.equal(ours.prompt_embeds, theirs.prompt_embeds)
    assert (tiny.name, tiny.latent_space, same.latent_space) == ("tiny-sd3", "tiny-vae-f8c8", "sd3-vae-f8c16")
    assert (TinySD3().t5, TinySD3().t5_tokens) == ("off", 4)
    assert json.loads(TinySD3().model_dump_json())["weights"] == "default"
