"""The released way gives the same losses, gradients and scores as ours, in more work."""

import pytest
import torch

from lpobench.plugin import UserError
from lpobench.spec import load_spec
from lpobench.timing.comparison import gradient_difference, relative_difference
from lpobench.timing.phases import flops_of, replaced
from lpobench.timing.released import ReleasedWay, check, latent_scores, loss, reference_of
from lpobench.timing.rewards import Choice


@pytest.fixture(scope="module")
def rows(load):
    return load.rows(4)


@pytest.fixture(scope="module")
def reference(load):
    return reference_of(load.policy, load.spec)


@pytest.fixture
def moved(load):
    """The adapters off their start, where policy and reference agree and half of the gradients are 0."""
    generator = torch.Generator().manual_seed(5)
    start = [parameter.detach().clone() for parameter in load.policy.trained]
    with torch.no_grad():
        for parameter in load.policy.trained:
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    yield
    with torch.no_grad():
        for parameter, value in zip(load.policy.trained, start, strict=True):
            parameter.copy_(value)


def test_gradients_are_equal(load, reference, rows):
    assert gradient_difference(load, reference, rows) < 1e-5


def test_losses_and_logs_are_equal(load, reference, rows, moved):
    ours, our_logs = load.spec.method.loss(load.loop.ctx, rows)
    theirs, their_logs = loss(load.spec.method, load.policy, reference, rows)
    assert ours.item() != pytest.approx(0.6931, abs=1e-3)
    torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(their_logs, our_logs, rtol=1e-4, atol=1e-5)


def test_an_update_moves_the_same_way(load, reference, rows):
    """The gradient that the optimiser is given, up to its length: ours is clipped, the released one is not."""
    found = []
    for update in (ReleasedWay(load).update(reference, rows), load.update(rows)):
        held = []
        keep = lambda held=held: held.extend(p.grad.clone() for p in load.policy.trained)
        with replaced(load.loop.optimizer, {"step": keep}):
            update()
        found.append([grad / torch.stack([g.norm() for g in held]).norm() for grad in held])
    assert len(found[0]) == len(load.policy.trained)
    assert relative_difference(*found) < 1e-5


def test_the_reference_is_a_copy_without_adapters(load, reference):
    copied = {id(parameter) for parameter in reference.backbone.denoiser.parameters()}
    assert not copied & {id(parameter) for parameter in load.backbone.denoiser.parameters()}
    assert not any("lora" in name for name, _ in reference.backbone.denoiser.named_parameters())
    assert reference.backbone.denoiser is not load.backbone.denoiser


def test_it_costs_twice_as_much(load, reference, rows):
    """Four forward passes and twice the backward; our reference computes less than two full branches."""
    update = ReleasedWay(load).update(reference, rows)
    assert 2 <= flops_of(update) / flops_of(load.update(rows)) < 2.15


def test_scores_are_the_rewards_own(load):
    """Every prompt and "" encoded anew in one batch: the same up to a batch's rounding."""
    choice = Choice.of(load.policy, 2, 3)
    noisy = choice.noisy(3)
    ours = load.reward.reward.score(noisy).unflatten(0, (3, 2))
    with torch.no_grad():
        theirs = latent_scores(
            load.reward.reward, choice.candidates.unflatten(0, (3, 2)), choice.s, choice.texts
        )
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-4)


def test_a_round_gives_as_many_pairs(load):
    load.collect()
    ours, theirs = load.loop.state.pending, ReleasedWay(load).collect()
    assert len(theirs) == len(ours)
    assert sorted(theirs.t.tolist()) == sorted(ours.t.tolist())
    assert sorted(theirs.prompts) == sorted(ours.prompts)
    assert flops_of(ReleasedWay(load).collect) > 1.02 * flops_of(load.collect)


def test_other_methods_are_refused():
    with pytest.raises(UserError, match="ddpo is another: use --method lpo"):
        check(load_spec(flags={"method": "ddpo"}))


def test_other_rewards_are_refused(load):
    choice = Choice.of(load.policy, 1, 2)
    with pytest.raises(UserError, match="needs a latent reward, such as lrm"):
        latent_scores(object(), choice.candidates[None], choice.s, choice.texts)
