from itertools import pairwise

import pytest
import torch
from pydantic import ValidationError

from methods.lpo import LPO
from methods.spo import SPO
from methods.step_dpo import StepDPO

SDXL = SPO(num_candidates=2, min_gap=(0.4, 0.4), inner_steps=3)
"""The released SDXL config."""
EVERY_PAIR = {"min_gap": (0.0, 0.0)}


def collected(method, context):
    with torch.no_grad():
        return method.collect(context)


class Told:
    """Returns the given scores, call by call: each a list over candidates for every prompt alike."""

    latent_space = None
    differentiable = False

    def __init__(self, *calls, num_prompts=4):
        self.calls, self.num_prompts, self.times = iter(calls), num_prompts, []

    def score(self, noisy):
        self.times.append(noisy.t.unique().item())
        return torch.tensor(next(self.calls)).repeat_interleave(self.num_prompts)


def test_the_released_numbers():
    spo = SPO()
    assert (spo.beta, spo.min_gap, spo.threshold, spo.num_candidates) == (10, (0.3, 0.3), "constant", 4)
    assert (spo.ratio_clip, spo.score_at, spo.inner_steps) == (0.1, "s", 0)
    assert spo.default_reward == "spm"


def test_a_preset_changes_defaults_only():
    for preset in (SPO, LPO):
        assert (preset.collect, preset.loss, preset.check) == (StepDPO.collect, StepDPO.loss, StepDPO.check)


def test_a_rollout_costs_21_calls_with_a_pixel_reward(
    make_policy, make_context, pixel_reward, count_forwards
):
    """4 plain steps and the first fork on b rows; then one batched estimate of all k candidates per fork, at s,
    which the next step reuses: 5 + 16.
    """
    policy = make_policy()
    forwards = count_forwards(policy)
    rows = collected(SPO(**EVERY_PAIR), make_context(policy, reward=pixel_reward))
    assert forwards == [4] * 5 + [16] * 16
    assert policy.calls == 21
    assert policy.decodes == 16 * 16
    assert len(rows) == 16 * 4
    assert sorted(set(rows.t.tolist()), reverse=True) == [751 - 50 * i for i in range(16)]


def test_the_methods_own_calls_shrink_to_those_the_reward_does_not_make(
    make_policy, make_context, latent_reward
):
    policy = make_policy()
    collected(SPO(), make_context(policy, reward=latent_reward))
    assert policy.calls == 20 == SPO().denoiser_calls(policy)[0]


def test_candidates_are_scored_at_their_own_time(make_policy, make_context, latent_reward):
    collected(SPO(), make_context(make_policy(), reward=latent_reward))
    assert [times.unique().tolist() for times in latent_reward.times][:2] == [[701], [651]]
    assert latent_reward.times[-1].unique().tolist() == [0]


def test_a_margin_of_0_3_is_a_gap_of_0_619(make_policy, make_context):
    """tanh(gap / 2) > 0.3 where gap > 2 atanh(0.3) = 0.6190: the same at every step."""
    scores = [[0.0, 0.1, gap, 0.2] for gap in (0.618, 0.620) * 8]
    rows = collected(SPO(), make_context(make_policy(), reward=Told(*scores)))
    assert sorted(set(rows.t.tolist())) == [1 + 100 * i for i in range(8)]


def test_a_prompt_with_a_nan_score_gives_no_pair(make_policy, make_context, pixel_reward):
    class Broken:
        latent_space, differentiable = None, False

        def score(self, noisy):
            scores = pixel_reward.score(noisy)
            scores[[prompt == "1" for prompt in noisy.prompts]] = torch.nan
            return scores

    for method in (SPO(**EVERY_PAIR), SDXL):
        context = make_context(make_policy(), reward=Broken())
        rows = collected(method, context)
        assert len(rows) > 0
        assert set(rows.prompts) == {"-1"}
        assert torch.cat(context.verdicts).float().mean() == 0.5


def test_inner_steps_give_four_transitions_per_decision_and_one_label(make_policy, make_context):
    """Chain 1 wins at t = 551 and 151, chain 0 at 351; at the end nobody is sure."""
    policy, reward = make_policy(), Told([0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.1])
    rows = collected(SDXL, make_context(policy, reward=reward))
    assert reward.times == [551, 351, 151, 0]
    assert policy.calls == 20
    assert len(rows) == 3 * 4 * 4
    steps = [rows.take(torch.arange(4 * i, 4 * i + 4)) for i in range(12)]  # of four prompts each
    assert [step.t[0].item() for step in steps] == [751 - 50 * i for i in range(12)]
    for index, (step, after) in enumerate(pairwise(steps)):
        if index % 4 == 3:  # the next decision starts from one of the ends
            assert torch.equal(after.winner_latents, after.loser_latents)
        else:
            assert torch.equal(step.winner, after.winner_latents)
            assert torch.equal(step.loser, after.loser_latents)
    assert torch.equal(steps[0].winner_latents, steps[0].loser_latents)
    assert not torch.equal(steps[1].winner_latents, steps[1].loser_latents)


def test_inner_steps_cost_21_calls_with_a_pixel_reward(
    make_policy, make_context, pixel_reward, count_forwards
):
    """4 plain steps; four times: the split on b rows, of which all but the first are reused from the estimates of
    the ends, and three steps on the k b rows of the chains.
    """
    policy = make_policy()
    forwards = count_forwards(policy)
    collected(SDXL, make_context(policy, reward=pixel_reward))
    assert forwards == [4] * 5 + [8] * 16


def test_the_loss_of_chains_is_dpo_on_each_transition(make_policy, make_context):
    """Against log densities of winner and loser, each from its own x_t, subtracted in float64."""
    method = SDXL.model_copy(update={"ratio_clip": None, "min_gap": (0.0, 0.0)})
    policy = make_policy(dtype=torch.float64)
    context = make_context(policy)
    rows = collected(method, context)
    policy.trained[0].data.fill_(0.05)

    def ratio(latents, x):
        new = policy.step(latents, rows.t, rows.s, rows.prompts)
        with policy.reference() as reference:
            ref = reference.step(latents, rows.t, rows.s, rows.prompts)
        return new.logprob(x) - ref.logprob(x)

    gap = ratio(rows.winner_latents, rows.winner) - ratio(rows.loser_latents, rows.loser)
    expected = torch.log1p(torch.exp(-10 * gap)).mean()
    loss, logs = method.loss(context, rows)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert logs["margin"].item() == pytest.approx(10 * gap.mean().item(), rel=1e-5)


def test_one_policy_and_one_reference_pass_for_winners_and_losers(make_policy, make_context, count_forwards):
    policy = make_policy()
    context = make_context(policy)
    rows = collected(SDXL, context).take(torch.arange(3))
    forwards = count_forwards(policy)
    loss, _ = SDXL.loss(context, rows)
    assert forwards == [6, 6]
    assert loss.item() == pytest.approx(0.6931, abs=1e-4)


@pytest.mark.parametrize("method", [SPO(**EVERY_PAIR), SDXL])
def test_shards_together_are_the_whole(make_policy, make_context, method):
    def shard(index, count):
        policy = make_policy()
        policy.shard = index, count
        return collected(method, make_context(policy))

    whole, halves = shard(0, 1), [shard(index, 2) for index in range(2)]
    merged = type(whole).merge(halves)
    assert merged.prompts == whole.prompts
    for name, value in vars(whole).items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(getattr(merged, name), value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_candidates": 1}, "greater than or equal to 2"),
        ({"inner_steps": -1}, "greater than or equal to 0"),
        ({"min_gap": (0.3, 0.4)}, "constant needs two equal margins"),
        ({"timestep_range": (751, 0)}, "the smaller timestep comes first"),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        SPO(**changes)
