import pytest
import torch

from lpobench.learning import NoisedPairs
from lpobench.sampling import VariancePreserving
from methods.sft import SFT


def row(x0=1.0, eps=1.0) -> NoisedPairs:
    """A constant winner beside a loser that must not matter, around mu = 0."""
    shape = (1, 1, 4, 4)
    return NoisedPairs(
        torch.full(shape, x0), torch.full(shape, torch.nan), torch.full(shape, eps), torch.zeros(1), ["0"]
    )


@pytest.mark.parametrize(("shift", "error"), [(0.0, 0.36), (0.5, 0.04), (0.75, 0.0)])
def test_loss_by_hand(make_policy, make_context, shift, error):
    """alpha = sigma = sqrt(0.5), scale 0.5, x0 = eps = 1: an element's error is 0.8 (1 - shift) - 0.2."""
    half = VariancePreserving(torch.tensor([0.5]), steps_offset=0, set_alpha_to_one=True)
    policy = make_policy(half, num_steps=1)
    policy.trained[0].data.fill_(shift)
    loss, logs = SFT().loss(make_context(policy), row())
    assert loss.item() == pytest.approx(error, abs=1e-6)
    assert logs == {}
    gradient = torch.autograd.grad(loss, policy.trained)[0].item()
    assert gradient == pytest.approx(2 * (0.8 * (1 - shift) - 0.2) * -0.8, abs=1e-6)


def test_one_pass_over_the_winners(make_policy, make_context, count_forwards):
    policy = make_policy()
    with torch.no_grad():
        rows = SFT().collect(make_context(policy))
    forwards = count_forwards(policy)
    SFT().loss(make_context(policy), rows)
    assert forwards == [4]
    assert SFT().denoiser_calls(policy) == (0, 1)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "flow"])
def test_fits_the_winners_mean(make_policy, make_context, kind):
    """Winners lie 0.5 above what the base makes of their prompts: the shift ends near there."""
    policy = make_policy(kind)
    optimizer = torch.optim.Adam(policy.trained, lr=0.05)
    context = make_context(policy, num_prompts=64)
    for _ in range(60):
        with torch.no_grad():
            rows = SFT(caption_dropout=0.0, timestep_range=(100, 800)).collect(context)
        optimizer.zero_grad()
        SFT().loss(context, rows)[0].backward()
        optimizer.step()
    assert policy.trained[0].item() == pytest.approx(0.5, abs=0.1)
