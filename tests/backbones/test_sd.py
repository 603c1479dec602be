"""Live Stable Diffusion: sizes, precision of the VAE, and where the text encoder lives."""

import json
import shutil

import made_pipelines
import pytest
import torch
from painted import generate

from backbones.sd import SD15
from lpobench.plugin import UserError
from lpobench.prepare import prepare
from lpobench.spec import load_spec

CPU, FLOAT = torch.device("cpu"), torch.float32


@pytest.fixture
def load(pipelines):
    return lambda dtype=FLOAT, **changes: SD15(weights=pipelines["sd15"], **changes).load(CPU, dtype)


def test_resolution_sets_the_latents_size(load):
    assert load().latent_shape == (4, 8, 8)
    backbone = load(resolution=104)
    assert backbone.latent_shape == (4, 13, 13)
    assert backbone.decode(torch.zeros(1, 4, 13, 13)).shape == (1, 3, 104, 104)
    latents, t = torch.randn(1, 4, 13, 13), torch.tensor([501.0])
    assert backbone.predict(latents, t, backbone.encode_prompt(["a"])).shape == (1, 4, 13, 13)


def test_latents_are_shifted_and_scaled(load):
    """encode gives (mean - shift) * scale; decode undoes both, with shift 0 where a config has none."""
    backbone, images = load(), torch.rand(2, 3, 64, 64)
    mean = backbone.vae.encode(images * 2 - 1).latent_dist.mode()
    torch.testing.assert_close(backbone.encode(images), mean * 0.18215)
    decoded = backbone.decode(backbone.encode(images))
    backbone.vae.register_to_config(shift_factor=0.5)
    torch.testing.assert_close(backbone.encode(images), (mean - 0.5) * 0.18215)
    torch.testing.assert_close(backbone.decode(backbone.encode(images)), decoded, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("upcast", [True, False])
def test_the_vae_stays_in_float32_where_its_config_says_so(pipelines, tmp_path, upcast):
    folder = shutil.copytree(pipelines["sd15"], tmp_path / "copy")
    config = folder / "vae" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"force_upcast": upcast}))
    backbone = SD15(weights=folder).load(CPU, torch.bfloat16)
    assert backbone.vae.dtype == (torch.float32 if upcast else torch.bfloat16)
    assert backbone.unet.dtype == backbone.text_encoder.dtype == torch.bfloat16
    latents = backbone.encode(torch.rand(1, 3, 64, 64))
    assert latents.dtype == backbone.decode(latents).dtype == FLOAT


def test_slicing_and_tiling_change_no_image(load):
    plain, sparing = load(), load(attention_slicing=True, vae_tiling=True)
    assert sparing.vae.use_tiling
    latents, t = torch.randn(2, 4, 8, 8), torch.tensor([501.0, 51.0])
    text = plain.encode_prompt(["a", "b"])
    torch.testing.assert_close(sparing.predict(latents, t, text), plain.predict(latents, t, text))
    torch.testing.assert_close(sparing.decode(latents), plain.decode(latents))


def test_an_offloaded_encoder_is_on_the_device_only_while_it_encodes(load, monkeypatch):
    backbone, seen = load(text_encoders="offload"), []
    monkeypatch.setattr(backbone.text_encoder, "to", lambda device: seen.append(str(device)))
    text = backbone.encode_prompt(["a red"])
    assert seen == ["cpu", "cpu"]  # to the device, which is the CPU here, and back
    assert torch.equal(text.prompt_embeds, load().encode_prompt(["a red"]).prompt_embeds)


def test_released_encoders_are_gone_for_good(load):
    backbone = load(text_encoders="release")
    probe = backbone.probe()
    backbone.release_text_encoders()
    assert backbone.text_encoder is None
    assert backbone.probe() is probe
    with pytest.raises(UserError, match=r"sd15 has released its text encoders.*keep or offload"):
        backbone.encode_prompt(["a"])


def test_a_run_that_releases_them_makes_the_same_images(tmp_path):
    """prepare encodes every prompt of the run, and the empty one, first."""
    images = {}
    for where in ("keep", "release"):
        settings = ["eval.num_prompts=2", "eval.num_steps=2", f"backbone.text_encoders={where}", "device=cpu"]
        parts = prepare(load_spec(flags={"method": "none"}, overrides=settings), tmp_path, train_reward=False)
        backbone = parts.policy.backbone
        assert (backbone.text_encoder is None) == (where == "release")
        (batch,) = generate(parts.policy, parts.eval_prompts, parts.spec.eval, reference=True)
        images[where] = batch.images
    torch.testing.assert_close(images["release"], images["keep"], atol=1e-5, rtol=1e-5)


def test_v_prediction_comes_from_the_schedulers_config(pipelines):
    assert made_pipelines.load("sd21-v", pipelines["sd21-v"]).schedule.prediction == "v_prediction"
    assert made_pipelines.load("sd15", pipelines["sd15"]).schedule.prediction == "epsilon"
