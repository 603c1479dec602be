"""What every registered backbone keeps, checked on the ones whose weights are in the project."""

from pathlib import Path

import pytest
import torch

from lpobench import registry
from lpobench.plugin import MissingAsset
from lpobench.sampling import Policy
from lpobench.spec import LoraSettings, SamplingSettings
from lpobench.types import Backbone

PROJECT = Path(__file__).parents[2]
CPU, FLOAT = torch.device("cpu"), torch.float32


@pytest.fixture(scope="module", params=registry.names("backbones"))
def backbone(request):
    settings = registry.get("backbones", request.param)()
    try:
        elsewhere = [path for path in settings.assets().values() if PROJECT not in path.parents]
    except MissingAsset as error:
        pytest.skip(str(error))
    if elsewhere:
        pytest.skip(f"large: {elsewhere[0]}")
    return settings.load(CPU, FLOAT)


def noise(backbone, num):
    return torch.randn((num, *backbone.latent_shape), generator=torch.Generator().manual_seed(0))


def test_keeps_the_contract(backbone):
    assert isinstance(backbone, Backbone)


def test_grid_descends_and_ends_nearly_clean(backbone):
    grid = backbone.schedule.timesteps(20)
    assert len(grid) == 21
    assert (grid.diff() < 0).all()
    assert backbone.schedule.levels(grid[-1:])[1].item() < 0.05


def test_prediction_splits_back(backbone):
    x0, eps = noise(backbone, 4), noise(backbone, 4).flip(0)
    t = torch.tensor([1.0, 301.0, 601.0, 951.0])
    alpha, sigma = (level.view(-1, 1, 1, 1) for level in backbone.schedule.levels(t))
    latents = alpha * x0 + sigma * eps
    clean, noisy = backbone.schedule.split_prediction(backbone.schedule.target(x0, eps, t), latents, t)
    torch.testing.assert_close(clean, x0, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(noisy, eps, atol=1e-4, rtol=1e-4)


def test_rows_are_independent(backbone):
    latents, t = noise(backbone, 2), torch.tensor([251.0, 751.0])
    text = backbone.encode_prompt(["", "a red star"])
    together = backbone.predict(latents, t, text)
    apart = [backbone.predict(latents[i : i + 1], t[i : i + 1], text.take(torch.tensor([i]))) for i in (0, 1)]
    torch.testing.assert_close(together, torch.cat(apart), atol=1e-4, rtol=1e-4)


def test_images_and_latents_have_their_shapes_and_ranges(backbone):
    images = backbone.decode(3 * noise(backbone, 2))
    assert images.shape[1] == 3
    assert images.min() >= 0
    assert images.max() <= 1
    assert backbone.encode(images).shape == (2, *backbone.latent_shape)


def test_adapters_off_is_the_base_bitwise(backbone):
    latents, t, prompts = noise(backbone, 2), torch.tensor([251.0, 751.0]), ["a red star", ""]
    with torch.no_grad():
        before = backbone.predict(latents, t, backbone.encode_prompt(prompts))
        policy = Policy(backbone, SamplingSettings(), LoraSettings(rank=2))
        assert policy.trained
        for parameter in policy.trained:
            parameter.add_(0.1)
        changed = backbone.predict(latents, t, backbone.encode_prompt(prompts))
        with policy.reference():
            reference = backbone.predict(latents, t, backbone.encode_prompt(prompts))
    assert torch.equal(before, reference)
    assert not torch.equal(before, changed)


def test_settings_survive_json(backbone):
    cls = registry.get("backbones", backbone.name)
    assert cls.model_validate_json(cls().model_dump_json()) == cls()
