"""Our LoRA layer against peft's own: the same numbers, whatever it is asked for."""

import copy
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import nn

from lpobench import registry
from lpobench.sampling import Policy, paths
from lpobench.sampling.lora import LoraLinear
from lpobench.sampling.switched import switched


class Together(nn.Module):
    """Three layers that read the same, as attention's do: the gradient of what they read is a sum of six."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(32, 32) for _ in range(3))

    def forward(self, x):
        x = nn.functional.gelu(x)
        return x + self.q(x) * self.k(x) + self.v(x)


def adapted(ours: bool, **changes) -> nn.Module:
    """Two layers with an adapter that is not zero, and between them three that read the same."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(24, 32), Together(), nn.Linear(32, 8, bias=False)).requires_grad_(False)
    config = LoraConfig(**{"r": 4, "lora_alpha": 4, "target_modules": ["0", "q", "k", "v", "2"]} | changes)
    if ours:
        config._register_custom_module({nn.Linear: LoraLinear})
    torch.manual_seed(1)
    inject_adapter_in_model(config, model)
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.3)
    return model


def both(**changes) -> tuple[nn.Module, nn.Module]:
    ours, theirs = adapted(True, **changes), adapted(False, **changes)
    assert len(switched(ours)) == 5
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def reading_prompts() -> LoraLinear:
    layer = adapted(True)[0]
    layer.reads_prompts = True
    return layer


def run(model: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """Output, and gradients of the input and of the adapter."""
    x = x.clone().requires_grad_()
    output = model(x)
    trained = [p for p in model.parameters() if p.requires_grad]
    return [output.detach(), *torch.autograd.grad(output.float().square().sum(), [x, *trained])]


def assert_same(ours: nn.Module, theirs: nn.Module, dtype=torch.float32) -> None:
    x = torch.randn((6, 5, 24), generator=torch.Generator().manual_seed(2)).to(dtype)
    results = run(ours, x), run(theirs, x)
    assert results[0][0].dtype == results[1][0].dtype
    for mine, other in zip(*results, strict=True):
        assert torch.equal(mine, other)


@pytest.mark.parametrize("alpha", [4, 12])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_it_is_pefts_to_the_last_bit(alpha, dropout):
    ours, theirs = both(lora_alpha=alpha, lora_dropout=dropout)
    assert_same(ours.eval(), theirs.eval())


def test_under_autocast_with_rounded_weights():
    """Frozen weights in bfloat16, the adapter in float32, as a run with precision bf16 has them."""
    for dtype in (torch.float32, torch.bfloat16):
        models = both()
        for model in models:
            for parameter in model.parameters():
                if not parameter.requires_grad:
                    parameter.data = parameter.data.to(torch.bfloat16)
        with torch.autocast("cpu", torch.bfloat16):
            assert_same(*models, dtype)


def test_mixed_precision_without_autocast_is_left_to_peft():
    models = both()
    for model in models:
        for parameter in model.parameters():
            if not parameter.requires_grad:
                parameter.data = parameter.data.to(torch.bfloat16)
    assert_same(*models, torch.bfloat16)


def test_merged_and_several_adapters_are_left_to_peft():
    ours, theirs = both()
    for model in (ours, theirs):
        model[2].merge()
        model[0].update_layer("second", 2, lora_alpha=2, config=LoraConfig(r=2, init_lora_weights=False))
        model[0].set_adapter(["default", "second"])
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn((6, 24), generator=torch.Generator().manual_seed(2))
    assert torch.equal(ours(x), theirs(x))


def test_off_it_is_the_base_and_stays_trainable():
    ours, theirs = both()
    x = torch.randn((3, 24), generator=torch.Generator().manual_seed(3))
    before = ours(x)
    for part in switched(ours):
        part.as_policy = False
    assert len(switched(ours)) == 5
    for part in theirs.modules():
        if isinstance(part, LoraLayer):
            part.enable_adapters(False)
    with torch.no_grad():
        base = theirs(x)
        assert torch.equal(ours(x), base)
    assert not torch.equal(before, base)
    assert sum(p.requires_grad for p in ours.parameters()) == 10
    for part in switched(ours):
        part.as_policy = True
    assert torch.equal(ours(x), before)


def test_an_adapter_without_a_switch_is_refused():
    with pytest.raises(AssertionError, match="no switch"):
        switched(adapted(False))


def test_a_copy_has_adapters_of_its_own():
    ours = adapted(True)
    other = copy.deepcopy(ours)
    for part in switched(other):
        part.as_policy = False
    assert all(part.as_policy for part in switched(ours))


def test_a_kept_output_is_that_of_the_same_input_only():
    layer = reading_prompts()
    x, other = torch.randn((2, 3, 24), generator=torch.Generator().manual_seed(4)).unbind()
    plain = layer(x).detach(), layer(other).detach()
    layer.roll_out(True)
    with torch.no_grad():
        first, again = layer(x), layer(x)
        assert again is first
        assert torch.equal(first, plain[0])
        assert torch.equal(layer(other), plain[1])
        assert torch.equal(layer(x.clone()), plain[0])
    assert layer(x).requires_grad
    layer.roll_out(False)
    with torch.no_grad():
        assert layer(x) is not layer(x)


def test_what_is_kept_goes_when_the_adapters_are_switched():
    layer = reading_prompts()
    x = torch.randn((3, 24), generator=torch.Generator().manual_seed(5))
    layer.roll_out(True)
    with torch.no_grad():
        on = layer(x)
        layer.as_policy = False
        off = layer(x)
        assert torch.equal(off, layer.base_layer(x))
        assert not torch.equal(on, off)
        layer.as_policy = True
        assert torch.equal(layer(x), on)


@pytest.mark.parametrize("lora_alpha", [4, 8])
def test_a_rollout_adds_an_adapter_to_its_weight(lora_alpha):
    layer = adapted(True, lora_alpha=lora_alpha)[0]
    x = torch.randn((3, 24), generator=torch.Generator().manual_seed(6))
    calls = []
    layer.base_layer.register_forward_hook(lambda module, args, output: calls.append(module))
    with torch.no_grad():
        plain, base = layer(x), layer.base_layer(x)
        calls.clear()
        layer.roll_out(True)
        torch.testing.assert_close(layer(x), plain, rtol=1e-5, atol=1e-5)
        assert not calls
        layer.as_policy = False
        assert torch.equal(layer(x), base)
        layer.as_policy = True
        layer.roll_out(False)
        nn.init.normal_(layer.lora_B["default"].weight)
        changed = layer(x)
        layer.roll_out(True)
        torch.testing.assert_close(layer(x), changed, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(changed, plain, atol=0.1)


@pytest.mark.parametrize("how", ["gradients", "autocast", "bfloat16"])
def test_an_adapter_stays_apart_where_one_matrix_would_not_hold_it(how):
    """Gradients need it apart; in a narrower type a small one would be rounded away."""
    layer = adapted(True)[0]
    x = torch.randn((3, 24), generator=torch.Generator().manual_seed(7))
    if how == "bfloat16":
        layer, x = layer.to(torch.bfloat16), x.to(torch.bfloat16)
    with torch.set_grad_enabled(how == "gradients"), torch.autocast("cpu", torch.bfloat16, how == "autocast"):
        plain = layer(x)
        layer.roll_out(True)
        assert torch.equal(layer(x), plain)
    assert layer(x).requires_grad


@torch.no_grad()
def test_a_rollout_reads_each_prompt_once_and_comes_out_the_same(monkeypatch):
    """Keys and values of a prompt are made in the first step of 5, and again after the weights have changed: equal to
    the last bit where adapters stay apart, to float32's rounding where they are added to their weights.
    """
    backbone = registry.get("backbones", "tiny-sd15")().load(torch.device("cpu"), torch.float32)
    sampling = SimpleNamespace(num_steps=5, guidance_scale=5.0, rule="ddim", eta=1.0)
    policy = Policy(backbone, sampling, SimpleNamespace(rank=2, alpha=None, init="gaussian"))
    layers = [part for part in backbone.unet.modules() if isinstance(part, LoraLinear)]
    reading = [layer for layer in layers if layer.reads_prompts]
    assert len(layers) == 4 * len(reading) > 0  # two of the eight of a block
    made = []
    for layer in reading:
        layer.base_layer.register_forward_hook(lambda module, args, output: made.append(module))

    def latents() -> torch.Tensor:
        made.clear()
        return paths(policy, ["a red circle", "two stars"], torch.Generator().manual_seed(0), 2).latents

    for _ in range(2):
        for parameter in policy.trained:
            nn.init.normal_(parameter, std=0.05)
        plain = latents()
        assert len(made) == 5 * len(reading)
        with policy.rollout():
            joined = latents()
        assert len(made) == len(reading)
        assert (joined - plain).norm() < 1e-5 * plain.norm()
        with policy.rollout(), monkeypatch.context() as patched:
            patched.setattr(LoraLinear, "_joins", lambda layer, x: False)
            kept = latents()
        assert torch.equal(kept, plain)
