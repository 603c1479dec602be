import math
from types import SimpleNamespace

import pytest
import torch
from unet_backbone import UNetBackbone

from lpobench.plugin import UserError
from lpobench.sampling import Policy, VariancePreserving


@pytest.fixture
def inputs():
    latents = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    return latents, torch.tensor([951.0, 501.0]), ["1", "-1"]


def test_guidance_is_one_batched_pass(make_policy, count_forwards, inputs):
    policy = make_policy(guidance_scale=5.0)
    forwards = count_forwards(policy)
    policy.denoise(*inputs)
    assert (policy.calls, policy.rows, forwards) == (1, 4, [4])


def test_guidance_formula(make_policy, inputs):
    """negative + g * (positive - negative), of raw outputs that an unguided policy gives."""
    latents, t, prompts = inputs
    plain, guided = make_policy(), make_policy(guidance_scale=3.0)
    _, positive = plain.denoise(latents, t, prompts)
    _, negative = plain.denoise(latents, t, ["", ""])
    _, eps = guided.denoise(latents, t, prompts)
    torch.testing.assert_close(eps, negative + 3 * (positive - negative), atol=1e-5, rtol=1e-5)


def test_guidance_one_is_one_unguided_pass(make_policy, inputs):
    policy = make_policy(guidance_scale=1.0)
    policy.denoise(*inputs)
    assert (policy.calls, policy.rows) == (1, 2)


def test_eta_may_be_overridden(make_policy, inputs):
    latents, t, prompts = inputs
    step = make_policy(eta=1.0).step(latents, t, t - 50, prompts, eta=0.0)
    assert (step.std == 0).all()


def test_each_prompt_is_encoded_once_and_in_one_batch(make_policy, inputs):
    policy = make_policy(guidance_scale=2.0)
    encoded, encode = [], policy.backbone.encode_prompt
    policy.backbone.encode_prompt = lambda prompts: (encoded.append(prompts), encode(prompts))[1]
    latents, t, _ = inputs
    for prompts in (["1", "2"], ["2", "1"], ["1", "3"], ["1", "1"]):
        policy.denoise(latents, t, prompts)
    assert encoded == [["", "1", "2"], ["3"]]
    assert policy.conditioning(["2", "1", "2"]).mu.tolist() == [2, 1, 2]


def test_prompt_cache_is_bounded(make_policy, monkeypatch):
    monkeypatch.setattr("lpobench.sampling.prompts.CACHED", 3)
    policy = make_policy()
    for prompts in (["1", "2"], ["3", "1"], ["4"]):  # 2 is the least recently used
        policy.conditioning(prompts)
    assert list(policy._prompts._recent) == ["3", "1", "4"]
    assert policy.conditioning([str(i) for i in range(5)]).mu.tolist() == [0, 1, 2, 3, 4]


def test_remembered_prompts_are_encoded_in_batches_and_never_go(make_policy, monkeypatch):
    monkeypatch.setattr("lpobench.sampling.prompts.CACHED", 1)
    monkeypatch.setattr("lpobench.sampling.prompts.REMEMBERED_AT_ONCE", 2)
    policy = make_policy()
    encoded, encode = [], policy.backbone.encode_prompt
    policy.backbone.encode_prompt = lambda prompts: (encoded.append(prompts), encode(prompts))[1]
    policy.remember(["", "1", "2", "1"], torch.device("cpu"))
    policy.remember(["2", "3"])
    for prompts in (["4"], ["5"], ["3", "", "5", "2"]):
        seen = policy.conditioning(prompts).mu
    assert seen.tolist() == [3, 0, 5, 2]
    assert encoded == [["", "1"], ["2"], ["3"], ["4"], ["5"]]
    assert list(policy._prompts._recent) == ["5"]


def test_only_adapters_are_trainable(make_policy):
    policy = make_policy()
    trainable = [name for name, p in policy.backbone.denoiser.named_parameters() if p.requires_grad]
    assert trainable == ["shift"]
    assert [id(p) for p in policy.trained] == [id(policy.backbone.denoiser.shift)]
    assert make_policy(adapter=False).trained == []


def test_reference_is_the_base_and_leaves_everything_as_it_was(make_policy, inputs):
    policy, base = make_policy(), make_policy(adapter=False)
    policy.trained[0].data.fill_(0.3)
    moved = policy.denoise(*inputs)[1]
    with policy.reference() as reference, reference.reference():
        assert torch.equal(reference.denoise(*inputs)[1], base.denoise(*inputs)[1])
    with policy.reference() as reference:
        assert not torch.is_grad_enabled()
    assert policy.trained[0].requires_grad
    assert torch.equal(policy.denoise(*inputs)[1], moved)
    assert policy.denoise(*inputs)[1].requires_grad


def test_reference_stays_on_until_the_outermost_end(make_policy, inputs):
    policy, base = make_policy(), make_policy(adapter=False).denoise(*inputs)[1]
    policy.trained[0].data.fill_(0.3)
    with policy.reference():
        with policy.reference():
            pass
        assert torch.equal(policy.denoise(*inputs)[1], base)


def test_reference_restores_after_an_error(make_policy, inputs):
    policy = make_policy()
    policy.trained[0].data.fill_(0.3)
    moved = policy.denoise(*inputs)[1]
    with pytest.raises(RuntimeError, match="boom"), policy.reference():
        raise RuntimeError("boom")
    assert torch.equal(policy.denoise(*inputs)[1], moved)
    assert policy.trained[0].requires_grad


def test_reference_leaves_frozen_adapters_frozen(make_policy):
    """peft would make adapters trainable when it switches them back on."""
    policy = make_policy()
    policy.trained[0].requires_grad_(False)
    with policy.reference():
        pass
    assert not policy.trained[0].requires_grad


def test_the_denoiser_is_never_asked_beyond_its_timesteps(make_policy, inputs):
    """A path that ends at sigma 0 ends at t = -1: x0 is what is there, and the denoiser is told 0."""
    alphas_cumprod = VariancePreserving.scaled_linear().alphas_cumprod
    policy = make_policy(VariancePreserving(alphas_cumprod, set_alpha_to_one=True))
    told = []
    policy.backbone.denoiser.register_forward_pre_hook(lambda module, args: told.extend(args[1].tolist()))
    x0, _ = policy.denoise(inputs[0], torch.full((2,), policy.timesteps[-1]), inputs[2])
    assert told == [0, 0]
    assert torch.equal(x0, inputs[0])


def test_reference_without_adapters_is_the_policy(make_policy, inputs):
    policy = make_policy(adapter=False)
    with policy.reference() as reference:
        assert torch.equal(reference.denoise(*inputs)[1], policy.denoise(*inputs)[1])


def test_std_range_is_over_stochastic_steps(make_policy):
    low, high = make_policy("flow").std_range(10)
    assert 0 < low < high < 1  # the last step of a flow has std 0 and is not counted
    with pytest.raises(UserError, match="eta 0"):
        make_policy(eta=0.0).std_range()


@pytest.mark.parametrize(
    ("sampling", "message"),
    [
        ({"rule": "flow_sde"}, "rule flow_sde is defined on flow backbones, gaussian is not one"),
        ({"eta": 1.5}, "eta 1.5: ddim needs 0 <= eta <= 1"),
    ],
)
def test_impossible_steps_are_refused(make_policy, sampling, message):
    with pytest.raises(UserError, match=message):
        make_policy(**sampling)


@pytest.mark.parametrize(
    ("dtype", "stored"),
    [(torch.float32, torch.float32), (torch.float16, torch.float16), (torch.bfloat16, torch.float32)],
)
def test_storage_dtype(make_policy, inputs, dtype, stored):
    """float16 keeps eleven bits, enough for latents; bfloat16 keeps eight, so they are stored in float32."""
    policy = make_policy(dtype=dtype)
    assert policy.latent_dtype == stored
    assert all(part.dtype == torch.float32 for part in policy.denoise(*inputs))


@pytest.fixture
def unet_policy():
    """On a stock UNet, so that adapters are peft's own."""

    def make(seed=0, rank=2, alpha=None, dtype=torch.float32):
        sampling = SimpleNamespace(num_steps=20, guidance_scale=5.0, rule="ddim", eta=1.0)
        lora = SimpleNamespace(rank=rank, alpha=alpha, init="gaussian")
        return Policy(UNetBackbone(dtype), sampling, lora, seed)

    return make


def test_peft_adapters_start_as_a_no_op_and_switch_off(unet_policy):
    policy = unet_policy()
    arguments = torch.randn(2, 4, 8, 8), torch.tensor([951.0, 51.0]), ["1", "2"]
    with policy.reference() as reference:
        base = reference.denoise(*arguments)[1]
    assert torch.equal(policy.denoise(*arguments)[1], base)  # lora_B is 0

    for parameter in policy.trained:
        parameter.data.normal_()
    assert not torch.equal(policy.denoise(*arguments)[1], base)
    with policy.reference() as reference:
        assert torch.equal(reference.denoise(*arguments)[1], base)

    policy.denoise(*arguments)[1].sum().backward()
    assert all(parameter.grad is not None for parameter in policy.trained)
    frozen = [p for name, p in policy.backbone.denoiser.named_parameters() if "lora" not in name]
    assert not any(p.requires_grad or p.grad is not None for p in frozen)


def test_peft_adapters_are_seeded_and_float32(unet_policy):
    before = torch.random.get_rng_state()

    def weights(seed):
        return torch.cat([p.flatten() for p in unet_policy(seed, dtype=torch.float16).trained])

    assert weights(1).dtype == torch.float32
    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(("alpha", "scaling"), [(None, 1.0), (8, 4.0)])
def test_lora_alpha_defaults_to_the_rank(unet_policy, alpha, scaling):
    layers = [
        m for m in unet_policy(rank=2, alpha=alpha).backbone.denoiser.modules() if hasattr(m, "scaling")
    ]
    assert layers
    assert all(math.isclose(layer.scaling["default"], scaling) for layer in layers)
