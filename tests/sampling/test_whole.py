"""All weights trained beside a frozen copy: one moves, the other does not, and each is used in its place."""

import math
from contextlib import nullcontext

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from trained_unet import GUIDED, INPUTS, output, referred, trained
from unet_backbone import UNetBackbone

from lpobench.plugin import UserError
from lpobench.sampling import Policy
from lpobench.sampling.whole import Whole


@pytest.fixture
def policy():
    return Policy(UNetBackbone(), GUIDED, "all")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_all_weights_move_and_the_frozen_ones_do_not(tmp_path, precision):
    backbone = UNetBackbone()
    base = dict(backbone.denoiser.named_parameters())
    shared = backbone.denoiser.state_dict()  # the same memory, as a reward may have it
    before, versions = {name: value.clone() for name, value in shared.items()}, count_writes(shared)
    policy = Policy(backbone, GUIDED, "all")
    start = output(policy)
    assert torch.equal(referred(policy), start)

    losses = trained(tmp_path, policy, precision=precision)
    assert losses[0] == pytest.approx(math.log(2), abs=1e-6)
    assert losses[-1] < losses[0]
    assert torch.equal(referred(policy), start)
    assert not torch.equal(output(policy), start)
    named = dict(backbone.denoiser.named_parameters())
    assert [named[name] for name in base] == policy.trained
    assert all(
        value.dtype == torch.float32 and not torch.equal(value, before[k]) for k, value in named.items()
    )
    assert all(torch.equal(value, before[name]) for name, value in shared.items())
    assert count_writes(shared) == versions
    with policy.reference():
        assert all(value is base[name] for name, value in backbone.denoiser.named_parameters())
    assert not any(value.requires_grad or value.grad is not None for value in base.values())


def count_writes(state: dict[str, torch.Tensor]) -> int:
    """As DiNa-LRM counts them on the weights it shares."""
    return sum(value._version for value in state.values())


@pytest.mark.parametrize("low", [False, True])
def test_a_reference_between_forward_and_backward_changes_no_gradient(policy, low):
    """Autocast remembers the policy's rounded weights; the reference must not be given those."""
    with torch.no_grad():
        for weight in policy.trained:
            weight.add_(0.1)
    autocast = lambda: torch.autocast("cpu", torch.bfloat16) if low else nullcontext()
    with autocast():
        alone = referred(policy)
    gradients = []
    for between in (False, True):
        with autocast():
            made = policy.denoise(*INPUTS, ["1", "2"])[1]
            if between:
                assert torch.equal(referred(policy), alone)
                assert torch.equal(output(policy), made.detach())
        gradients.append(torch.autograd.grad(made.square().sum(), policy.trained))
    assert all(torch.equal(*both) for both in zip(*gradients, strict=True))


def test_gradient_checkpointing_gives_the_same_gradient(policy):
    def gradients():
        with policy.reference() as reference:
            old = reference.denoise(*INPUTS, ["1", "2"])[1]
        loss = (policy.denoise(*INPUTS, ["1", "2"])[1] - 2 * old).square().sum()
        return torch.autograd.grad(loss, policy.trained)

    plain = gradients()
    policy.backbone.denoiser.enable_gradient_checkpointing()
    for one, other in zip(plain, gradients(), strict=True):
        torch.testing.assert_close(one, other)


def test_a_rollout_keeps_nothing_of_weights_that_changed(policy):
    with policy.rollout():
        start = output(policy)
        assert torch.equal(referred(policy), start)
    with torch.no_grad():
        policy.trained[0].add_(1.0)
    with policy.rollout():
        assert not torch.equal(output(policy), start)
        assert torch.equal(referred(policy), start)


def test_resumed_it_is_the_run_that_nobody_disturbed(tmp_path):
    ends = []
    for name, stops in (("straight", [2]), ("parts", [1, 2])):
        for num_updates in stops:
            policy = Policy(UNetBackbone(), GUIDED, "all")
            trained(tmp_path / name, policy, num_updates)
        ends.append((tmp_path / name / "checkpoints" / "step-00000002", policy.trained))
    assert all(torch.equal(*both) for both in zip(*(weights for _, weights in ends), strict=True))
    for name in ("denoiser.safetensors", "optimizer.safetensors", "random.safetensors"):
        one, other = (load_file(folder / name) for folder, _ in ends)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)
    assert not (ends[0][0] / "adapters.safetensors").exists()


def test_a_parameter_of_two_layers_stays_one():
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    second.weight = first.weight
    model = nn.Sequential(first, second).requires_grad_(False)
    whole = Whole(model)
    assert first.weight is second.weight
    assert len(list(model.parameters())) == 3
    whole.as_policy = False
    assert first.weight is second.weight
    assert not first.weight.requires_grad


def test_half_precision_weights_are_refused():
    with pytest.raises(
        UserError, match=r"trained in float32, the denoiser has torch\.bfloat16: load it in float32"
    ):
        Policy(UNetBackbone(torch.bfloat16), GUIDED, "all")
