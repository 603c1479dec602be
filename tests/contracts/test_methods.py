"""What every registered method keeps (style.md, "Tests"), on the Gaussian backbone."""

import math

import pytest
import torch

from lpobench import registry
from lpobench.plugin import MethodSettings
from lpobench.types import Rows

TRAINED = [name for name in registry.names("methods") if registry.get("methods", name).trains]
KINDS = ["epsilon", "v_prediction", "flow"]
LOG_2 = ["d3po", "diffusion_dpo", "lpo", "seppo", "spo"]
"""Methods whose loss at the reference is that of a coin."""
ON_POLICY = ["ddpo", "flow_grpo", "step_grpo"]
"""Methods whose likelihood ratio is 1 before the first update."""
STOPS_EARLY = ["itercomp"]
"""Methods whose rollouts end at a step that is drawn."""

pytestmark = pytest.mark.parametrize("name", TRAINED)


@pytest.fixture
def method(name) -> MethodSettings:
    return registry.get("methods", name)()


def collected(method, context) -> Rows:
    with torch.no_grad():
        return method.complete(method.collect(context))


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
    pairs = zip(tensors(first).values(), tensors(other).values(), strict=True)
    assert any(a.shape != b.shape or not torch.equal(a, b) for a, b in pairs)


def test_shards_of_a_round_are_the_round(method, make_policy, make_context):
    """Two shards, one after the other and merged, are the rows of one, and need the same random numbers."""

    def shard(index, count):
        policy = make_policy()
        policy.shard = index, count
        context = make_context(policy)
        with torch.no_grad():
            return method.collect(context), context.generator.get_state()

    (whole, after), parts = shard(0, 1), [shard(index, 2) for index in range(2)]
    merged = method.complete(type(whole).merge([rows for rows, _ in parts]))
    whole = method.complete(whole)
    assert len(merged) == len(whole)
    assert sorted(merged.prompts) == sorted(whole.prompts)
    for name, value in tensors(whole).items():
        torch.testing.assert_close(
            tensors(merged)[name].flatten().sort().values, value.flatten().sort().values, atol=2e-5, rtol=2e-5
        )
    assert all(torch.equal(state, after) for _, state in parts)


@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_logs_at_the_reference(name, method, make_policy, make_context, kind):
    context = make_context(make_policy(kind))
    loss, logs = method.loss(context, collected(method, context))
    assert loss.ndim == 0
    assert loss.isfinite()

    assert all(value.ndim == 0 and not value.requires_grad and value.isfinite() for value in logs.values())
    if name in LOG_2:
        assert loss.item() == pytest.approx(math.log(2), abs=1e-6)
    if name in ON_POLICY:
        assert logs["ratio"].item() == 1


def test_only_adapters_get_gradients_and_all_do(method, make_policy, make_context):
    context = make_context(make_policy())
    method.loss(context, collected(method, context))[0].backward()
    trained = context.policy.trained
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in trained)
    ids = {id(p) for p in trained}
    assert all(p.grad is None for p in context.policy.backbone.denoiser.parameters() if id(p) not in ids)


def test_reference_is_unmoved_by_updates(method, make_policy, make_context):
    policy = make_policy()
    inputs = torch.ones(2, 1, 4, 4), torch.tensor([951.0, 51.0]), ["1", "-1"]
    with policy.reference():
        before = policy.denoise(*inputs)[1]
    train(method, make_context(policy), updates=3)
    assert not torch.equal(policy.denoise(*inputs)[1], before)
    with policy.reference():
        assert torch.equal(policy.denoise(*inputs)[1], before)


def test_all_weights_can_be_trained(name, method, make_policy, make_context):
    policy = make_policy(whole=True)
    context, (scale,) = make_context(policy), policy.trained
    loss, _ = method.loss(context, collected(method, context))
    if name in LOG_2:
        assert loss.item() == pytest.approx(math.log(2), abs=1e-6)
    loss.backward()
    assert scale.grad.abs() > 0
    train(method, context, updates=2)
    assert scale.item() != 0.5
    with policy.reference():
        assert policy.backbone.denoiser.scale.item() == 0.5


def test_a_batch_is_two_accumulated_halves(method, make_policy, make_context):
    context = make_context(make_policy(dtype=torch.float64))
    rows, trained = collected(method, context), context.policy.trained
    rows = rows.take(torch.arange(len(rows) // 2 * 2))
    whole = torch.autograd.grad(method.loss(context, rows)[0], trained)
    halves = [rows.take(part) for part in torch.arange(len(rows)).chunk(2)]
    summed = [torch.autograd.grad(method.loss(context, half)[0] / 2, trained) for half in halves]
    for full, *parts in zip(whole, *summed, strict=True):
        torch.testing.assert_close(sum(parts), full, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_updates_raise_the_reward(method, make_policy, make_context, kind):
    """Larger latents are better, in the reward and in the pairs: the shift of the mean, zero at first, has to grow."""
    context = make_context(make_policy(kind))
    train(method, context, updates=10)
    assert context.policy.trained[0].item() > 0.02


@pytest.mark.parametrize("kind", KINDS)
def test_declared_denoiser_calls_are_counted(name, method, make_policy, make_context, count_forwards, kind):
    context = make_context(make_policy(kind, guidance_scale=5.0))
    collect_calls, loss_calls = method.denoiser_calls(context.policy)
    forwards = count_forwards(context.policy)
    rows = collected(method, context)
    assert len(forwards) == context.policy.calls
    assert len(forwards) <= collect_calls  # a rollout that stops at a random step may take fewer
    assert len(forwards) == collect_calls or name in STOPS_EARLY
    forwards.clear()
    method.loss(context, rows)
    assert len(forwards) == loss_calls


def train(method, context, updates):
    optimizer = torch.optim.Adam(context.policy.trained, lr=0.02)
    for _ in range(updates):
        loss, _ = method.loss(context, collected(method, context))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
