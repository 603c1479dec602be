"""Images do not depend on how they were batched, and both variants start from one noise."""

import pytest
import torch
from painted import generate

from lpobench.sampling import VariancePreserving
from lpobench.scoring.generate import fingerprint, noise
from lpobench.spec import EvalSettings
from lpobench.types import Prompt

PROMPTS = [Prompt("0.5", "a"), Prompt("-1", "b"), Prompt("0.5", "c"), Prompt("2", "d"), Prompt("0", "e")]


def settings(**changes):
    return EvalSettings(
        **{"num_steps": 6, "guidance_scale": 1.0, "images_per_prompt": 2, "batch_size": 10, **changes}
    )


def images(policy, prompts=PROMPTS, *, reference=False, **changes):
    """Every image by (prompt id, index)."""
    batches = list(generate(policy, prompts, settings(**changes), reference=reference))
    return {
        (prompt.id, index): image
        for batch in batches
        for prompt, index, image in zip(batch.prompts, batch.indices, batch.images, strict=True)
    }


@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_an_image_is_the_same_in_any_batch_and_company(make_policy, batch_size):
    whole = images(make_policy())
    parts = images(make_policy(), PROMPTS[::-1], batch_size=batch_size)
    assert parts.keys() == whole.keys()
    assert len(whole) == 10
    for key, image in parts.items():
        torch.testing.assert_close(image, whole[key], rtol=0, atol=1e-6)


def test_noise_is_told_apart_by_prompt_index_and_seed():
    shape = (4, 8, 8)
    draws = [noise(shape, *key) for key in (("a", 0, 0), ("b", 0, 0), ("a", 1, 0), ("a", 0, 1), ("a0", 0, 0))]
    assert len({draw.sum().item() for draw in draws}) == 5
    assert torch.equal(draws[0], noise(shape, "a", 0, 0))
    assert noise((100_000,), "a", 0, 0).std().item() == pytest.approx(1, abs=0.01)


def test_noise_is_the_same_on_every_machine():
    """Pinned: a change here changes every published picture."""
    torch.testing.assert_close(noise((3,), "a", 0, 0), torch.tensor([0.3018777, -0.8294442, 0.4126069]))


def test_reference_ignores_the_adapter_and_the_method_uses_it(make_policy):
    policy = make_policy()
    base = images(policy)
    with torch.no_grad():
        policy.trained[0].fill_(1.0)
    assert all(torch.equal(image, base[key]) for key, image in images(policy, reference=True).items())
    assert all((image > base[key]).all() for key, image in images(policy).items())


def test_guidance_and_steps_are_the_evaluations_own(make_policy):
    """6 steps for 5 prompts in one batch: 6 forward passes of 10 latents, 20 with guidance."""
    policy = make_policy(num_steps=20, guidance_scale=3.0)
    images(policy, guidance_scale=1.0, images_per_prompt=1)
    assert (policy.calls, policy.rows) == (6, 30)
    images(policy, guidance_scale=2.0, images_per_prompt=1)
    assert (policy.calls, policy.rows) == (12, 90)
    assert policy.guidance_scale == 3.0


def test_sampling_is_deterministic_whatever_the_policys_eta(make_policy):
    still = images(make_policy(eta=0.0))
    assert all(torch.equal(image, still[key]) for key, image in images(make_policy(eta=1.0)).items())


def test_gaussian_images_follow_the_prompt(make_policy):
    """The exact denoiser turns N(0, 1) into N(mu, 1/4); a grey pixel is the sigmoid of its latent."""
    many = [Prompt("1", str(i)) for i in range(64)]
    latents = torch.stack(list(images(make_policy(), many, num_steps=50).values()))[:, 0].logit()
    assert latents.mean().item() == pytest.approx(1, abs=0.05)
    assert latents.std().item() == pytest.approx(0.5, abs=0.05)


def test_fingerprint_sees_weights_and_guidance(make_policy):
    backbone = make_policy(VariancePreserving.scaled_linear(), adapter=False).backbone
    first = fingerprint(backbone, "1", 2.0)
    assert first == fingerprint(backbone, "1", 2.0)
    assert first != fingerprint(backbone, "1", 3.0)
    with torch.no_grad():
        backbone.denoiser.scale += 1e-4
    assert first != fingerprint(backbone, "1", 2.0)
