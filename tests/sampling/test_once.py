"""What does not depend on the prompt is computed once for both halves of a guided batch, with the same result."""

import copy
from types import SimpleNamespace

import pytest
import tiny_unet
import torch
from diffusers import UNet2DConditionModel

from lpobench import registry
from lpobench.sampling import Policy
from lpobench.sampling.lora import LoraLinear
from lpobench.sampling.once import Once, before_text

GUIDED = SimpleNamespace(num_steps=20, guidance_scale=5.0, rule="ddim", eta=1.0)


@pytest.fixture(scope="module")
def inputs():
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn((3, *tiny_unet.LATENT_SHAPE), generator=generator).repeat(2, 1, 1, 1)
    return latents, torch.full((6,), 401.0), torch.randn((6, 12, 16), generator=generator)


def seen_rows(unet: UNet2DConditionModel) -> list[int]:
    rows = []
    for module in before_text(unet):
        module.forward = _counted(module.forward, rows)
    return rows


def _counted(forward, rows):
    def counted(first, *args, **kwargs):
        rows.append(len(first))
        return forward(first, *args, **kwargs)

    return counted


@torch.no_grad()
def test_one_half_is_computed_and_nothing_changes(inputs):
    unet = tiny_unet.unet((16, 32, 48))
    plain = unet(*inputs).sample
    once, rows = Once(before_text(unet)), seen_rows(unet)
    with once.of_halves():
        shared = unet(*inputs).sample
    assert rows == [3, 3]
    torch.testing.assert_close(shared, plain, rtol=1e-6, atol=1e-6)
    assert torch.equal(unet(*inputs).sample, plain)
    with once.of_halves(False):
        assert torch.equal(unet(*inputs).sample, plain)
    assert rows == [3, 3, 6, 6, 6, 6]


def test_with_gradients_nothing_is_shared(inputs):
    unet = tiny_unet.unet()
    once, rows = Once(before_text(unet)), seen_rows(unet)
    with once.of_halves():
        unet(*inputs)
    assert rows == [6, 6]


@torch.no_grad()
def test_a_copy_shares_by_itself(inputs):
    unet = tiny_unet.unet()
    once = Once(before_text(unet))
    other = copy.deepcopy(unet)
    rows = seen_rows(other)
    with once.of_halves():
        other(*inputs)
    assert rows == [6, 6]


def test_where_the_prompt_joins_the_timestep_there_is_nothing_to_share():
    """SDXL's blocks know the pooled prompt from the start; a first block without attention has no way in."""
    unet = tiny_unet.unet()
    unet.register_to_config(addition_embed_type="text_time")
    assert before_text(unet) == []
    assert before_text(tiny_unet.unet((16,))) == []


@torch.no_grad()
def test_guided_images_are_the_same_on_tiny_sd15(monkeypatch):
    monkeypatch.setattr(LoraLinear, "_joins", lambda layer, x: False)  # adding adapters to weights rounds
    backbone = registry.get("backbones", "tiny-sd15")().load(torch.device("cpu"), torch.float32)
    policy = Policy(backbone, GUIDED, SimpleNamespace(rank=2, alpha=None, init="gaussian"))
    for parameter in policy.trained:
        torch.nn.init.normal_(parameter, std=0.05)
    drawn = torch.randn((16, *backbone.latent_shape), generator=torch.Generator().manual_seed(1))
    given = drawn, torch.full((16,), 401.0), ["a red circle", "two blue stars"] * 8
    rows = seen_rows(backbone.unet)
    with policy.rollout():
        shared = policy.denoise(*given)
    assert rows == [16, 16]
    plain = policy.denoise(*given)
    assert rows == [16, 16, 32, 32]  # as a loss would, so that policy and reference do the same
    assert all(torch.equal(mine, other) for mine, other in zip(shared, plain, strict=True))
