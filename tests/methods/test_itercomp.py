import pytest
import torch

from lpobench.sampling import stochastic_steps
from methods.itercomp import IterComp
from methods.refl import ReFL


def collected(method, context):
    with torch.no_grad():
        return method.collect(context)


def test_the_published_numbers():
    """relu(2 - score) times 1e-3 on one late estimate, no KL."""
    method = IterComp()
    assert (method.hinge, method.scale, method.kl_beta) == (2.0, 1e-3, 0.0)
    assert (method.target, method.num_steps) == ("estimate", 1)


def test_a_preset_changes_defaults_only():
    assert (IterComp.collect, IterComp.loss, IterComp.check) == (ReFL.collect, ReFL.loss, ReFL.check)


def test_one_of_steps_30_to_39_of_40_ends_the_rollout(make_policy, make_context):
    """From t = 976 - 25 * 30 = 226 down to 1."""
    policy = make_policy(num_steps=40)
    assert stochastic_steps(policy, IterComp().timestep_range) == list(range(30, 40))
    context, stops = make_context(policy), set()
    for _ in range(6):
        before = policy.calls
        rows = collected(IterComp(), context)
        assert policy.timesteps[policy.calls - before] == rows.t.unique().item()
        stops.add(policy.calls - before)
    assert len(stops) > 2
    assert stops <= set(range(30, 40))


@pytest.mark.parametrize(("score", "loss"), [(-1.0, 3e-3), (0.5, 1.5e-3), (2.5, 0.0)])
def test_the_loss_by_hand(make_policy, make_context, score, loss):
    class Constant:
        latent_space, differentiable = None, True

        def score(self, noisy):
            return score + 0 * noisy.images.mean((1, 2, 3))

    policy = make_policy()
    context = make_context(policy, reward=Constant())
    rows = collected(IterComp(), context)
    decoded = policy.decodes
    value, logs = IterComp().loss(context, rows)
    assert value.item() == pytest.approx(loss, rel=1e-6)
    assert logs["saturated"].item() == (score > 2)
    assert policy.decodes == decoded + 4


def test_the_estimate_is_decoded_with_its_gradient(make_policy, make_context, pixel_reward):
    """Brighter is better: the shift that brightens has a negative gradient, unless the hinge is below the scores."""
    policy = make_policy()
    context = make_context(policy, reward=pixel_reward)
    rows = collected(IterComp(), context)
    gradients = [
        torch.autograd.grad(IterComp(hinge=hinge).loss(context, rows)[0], policy.trained)[0].item()
        for hinge in (100.0, -1.0)
    ]
    assert gradients[0] < 0
    assert gradients[1] == 0
