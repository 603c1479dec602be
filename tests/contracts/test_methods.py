"""What every registered method keeps (style.md, "Tests"), on the Gaussian backbone."""

import math

import pytest
import torch

from lpobench import registry
from lpobench.plugin import MethodSettings

TRAINED = [name for name in registry.names("methods") if registry.get("methods", name).trains]
KINDS = ["epsilon", "v_prediction", "flow"]

pytestmark = pytest.mark.parametrize("name", TRAINED)


@pytest.fixture
def method(name) -> MethodSettings:
    return registry.get("methods", name)()


def collected(method, context):
    with torch.no_grad():
        return method.collect(context)


def tensors(rows):
    return {name: value for name, value in vars(rows).items() if isinstance(value, torch.Tensor)}


def test_settings_round_trip_through_json(method):
    assert type(method).model_validate_json(method.model_dump_json()) == method


def test_needs_are_known(method):
    assert method.needs <= {"prompts", "pairs", "reward"}


@pytest.mark.parametrize("kind", KINDS)
def test_collect_follows_its_generator_and_keeps_no_graph(method, make_policy, make_context, kind):
    first, again, other = (
        collected(method, make_context(make_policy(kind), seed=seed)) for seed in (0, 0, 1)
    )
    assert len(first) > 0
    for name, value in tensors(first).items():
        assert not value.requires_grad
        assert torch.equal(value, tensors(again)[name])
    assert len(other) != len(first) or not torch.equal(first.latents, other.latents)


@pytest.mark.parametrize("kind", KINDS)
def test_loss_at_the_reference_is_log_2(method, make_policy, make_context, kind):
    policy = make_policy(kind)
    loss, logs = method.loss(policy, collected(method, make_context(policy)))
    assert loss.item() == pytest.approx(math.log(2), abs=1e-6)
    assert logs["ratio_winner"].item() == logs["ratio_loser"].item() == 1
    assert all(value.ndim == 0 and not value.requires_grad for value in logs.values())


def test_only_adapters_get_gradients_and_all_do(method, make_policy, make_context):
    policy = make_policy()
    method.loss(policy, collected(method, make_context(policy)))[0].backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in policy.adapters)
    trained = {id(p) for p in policy.adapters}
    assert all(p.grad is None for p in policy.backbone.denoiser.parameters() if id(p) not in trained)


def test_reference_is_unmoved_by_updates(method, make_policy, make_context):
    policy = make_policy()
    inputs = torch.ones(2, 1, 4, 4), torch.tensor([951.0, 51.0]), ["1", "-1"]
    with policy.reference():
        before = policy.denoise(*inputs)[1]
    train(method, policy, make_context(policy), updates=3)
    assert not torch.equal(policy.denoise(*inputs)[1], before)
    with policy.reference():
        assert torch.equal(policy.denoise(*inputs)[1], before)


def test_a_batch_is_two_accumulated_halves(method, make_policy, make_context):
    policy = make_policy(dtype=torch.float64)
    rows = collected(method, make_context(policy))
    rows = rows.take(torch.arange(len(rows) // 2 * 2))
    whole = torch.autograd.grad(method.loss(policy, rows)[0], policy.adapters)
    halves = [rows.take(part) for part in torch.arange(len(rows)).chunk(2)]
    summed = [torch.autograd.grad(method.loss(policy, half)[0] / 2, policy.adapters) for half in halves]
    for full, *parts in zip(whole, *summed, strict=True):
        torch.testing.assert_close(sum(parts), full, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_updates_raise_the_reward(method, make_policy, make_context, kind):
    """The reward is the mean of the latents, so the shift of the mean, zero at the start, has to grow."""
    policy = make_policy(kind)
    train(method, policy, make_context(policy), updates=10)
    assert policy.adapters[0].item() > 0.05


@pytest.mark.parametrize("kind", KINDS)
def test_declared_denoiser_calls_are_counted(method, make_policy, make_context, count_forwards, kind):
    policy = make_policy(kind, guidance_scale=5.0)
    collect_calls, loss_calls = method.denoiser_calls(policy)
    forwards = count_forwards(policy)
    rows = collected(method, make_context(policy))
    assert len(forwards) == policy.calls == collect_calls
    forwards.clear()
    method.loss(policy, rows)
    assert len(forwards) == loss_calls


def train(method, policy, context, updates):
    optimizer = torch.optim.Adam(policy.adapters, lr=0.02)
    for _ in range(updates):
        loss, _ = method.loss(policy, collected(method, context))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
