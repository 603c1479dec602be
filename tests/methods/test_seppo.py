import math

import pytest
import torch

from lpobench.learning import ReferencedPairs, pair_errors
from lpobench.sampling import VariancePreserving
from methods.seppo import SePPO

SHAPE = (1, 1, 4, 4)


def collected(method, context):
    with torch.no_grad():
        return method.collect(context)


def half(make_policy, shift):
    """A policy whose error per element is 0.8 (x0 - shift) - 0.2 eps (see test_diffusion_dpo.py)."""
    schedule = VariancePreserving(torch.tensor([0.5]), steps_offset=0, set_alpha_to_one=True)
    policy = make_policy(schedule, num_steps=1)
    policy.trained[0].data.fill_(shift)
    return policy


def row(winner_error, loser_error) -> ReferencedPairs:
    """Winner 1 and sample 0.5, noise 1, and the reference's errors on them."""
    return ReferencedPairs(
        torch.full(SHAPE, 1.0),
        torch.full(SHAPE, 0.5),
        torch.full(SHAPE, 1.0),
        torch.zeros(1),
        ["0"],
        torch.tensor([winner_error]),
        torch.tensor([loser_error]),
    )


def test_a_policy_that_knows_the_winner_better_pushes_the_sample_away(make_policy, make_context):
    """Shift 0.25: errors 0.16 and 0. Against 0.36 and 0.04 the gains are 0.1 and 0.02; at beta 10, 0.8."""
    loss, logs = SePPO(beta=10.0).loss(make_context(half(make_policy, 0.25)), row(0.36, 0.04))
    assert logs["flipped"].item() == 0
    assert loss.item() == pytest.approx(math.log1p(math.exp(-0.8)), abs=1e-6)
    assert logs["winner_error"].item() == pytest.approx(0.16, abs=1e-6)


def test_a_policy_that_knows_the_winner_worse_learns_from_the_sample(make_policy, make_context):
    """Against 0.1 and 0.04 the gains are -0.03 and 0.02, and the sample's counts for the policy: -0.1 at beta 10."""
    policy = half(make_policy, 0.25)
    loss, logs = SePPO(beta=10.0).loss(make_context(policy), row(0.1, 0.04))
    assert logs["flipped"].item() == 1
    assert loss.item() == pytest.approx(math.log1p(math.exp(0.1)), abs=1e-6)


@pytest.mark.parametrize(("difference", "flipped"), [(0.0, 0), (1e-6, 0), (1e-4, 1), (-1e-4, 0)])
def test_errors_that_differ_by_rounding_flip_nothing(make_policy, make_context, difference, flipped):
    policy = half(make_policy, 0.0)
    _, logs = SePPO().loss(make_context(policy), row(0.36 * (1 - difference), 0.04))
    assert logs["flipped"].item() == flipped


@pytest.mark.parametrize("earlier", ["base", "round"])
def test_losers_and_errors_are_the_checkpoints(make_policy, make_context, earlier):
    """Far from the base, samples lie around the prompt's mean, or around the policy's, 4 higher."""
    policy = make_policy()
    policy.trained[0].data.fill_(4.0)
    context = make_context(policy, num_prompts=64)
    rows = collected(SePPO(reference=earlier, caption_dropout=0.0), context)
    wanted = torch.tensor([float(prompt) for prompt in rows.prompts]) + (0 if earlier == "base" else 4)
    assert (rows.loser.mean((1, 2, 3)) - wanted).mean().abs() < 0.2
    assert torch.equal(rows.winner, context.next_pairs().winner)
    with policy.reference() if earlier == "base" else torch.no_grad():
        errors = pair_errors(policy, rows)
    torch.testing.assert_close((rows.winner_error, rows.loser_error), errors)


def test_random_takes_each_checkpoint_for_about_half_of_the_rounds(make_policy, make_context):
    """Of 40 rounds, 20 on average, with a deviation of 3."""
    policy = make_policy(num_steps=2)
    policy.trained[0].data.fill_(50.0)
    context = make_context(policy)
    means = [collected(SePPO(), context).loser.mean().item() for _ in range(40)]
    assert sum(mean > 25 for mean in means) == pytest.approx(20, abs=12)


def test_a_round_costs_its_sampling_and_the_errors(make_policy, make_context, count_forwards):
    policy = make_policy(num_steps=5, guidance_scale=3.0)
    forwards = count_forwards(policy)
    rows = collected(SePPO(), make_context(policy))
    assert forwards == [8] * 6
    SePPO().loss(make_context(policy), rows)
    assert len(forwards) == 7
    assert SePPO().denoiser_calls(policy) == (6, 1)


def test_loss_at_the_start_of_a_round_is_log_2(make_policy, make_context):
    policy = make_policy()
    policy.trained[0].data.fill_(0.3)
    context = make_context(policy)
    rows = collected(SePPO(reference="round"), context)
    loss, logs = SePPO().loss(context, rows.take(torch.tensor([2, 0])))
    assert loss.item() == pytest.approx(math.log(2), abs=1e-6)
    assert logs["flipped"].item() == 0
