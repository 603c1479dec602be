import math

import pytest
import torch
from pydantic import ValidationError
from rounds import Scores, collected

from lpobench.plugin import UserError
from methods.d3po import D3PO

KINDS = ["epsilon", "v_prediction", "flow"]


@pytest.mark.parametrize("kind", KINDS)
def test_updates_raise_the_reward(make_policy, make_context, kind):
    policy = make_policy(kind)
    context, optimizer = make_context(policy), torch.optim.Adam(policy.trained, lr=0.02)
    for _ in range(10):
        loss, _ = D3PO().loss(context, collected(D3PO(), context))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert policy.trained[0].item() > 0.05


@pytest.mark.parametrize("kind", KINDS)
def test_loss_at_the_reference_is_log_2(make_policy, make_context, kind):
    policy = make_policy(kind)
    context = make_context(policy)
    loss, logs = D3PO().loss(context, collected(D3PO(), context))
    assert loss.item() == pytest.approx(math.log(2), abs=1e-6)
    assert logs["ratio_winner"].item() == logs["ratio_loser"].item() == 1
    assert logs["clipfrac"].item() == logs["margin"].item() == 0


def test_paths_of_a_prompt_start_together_and_the_better_end_wins(make_policy, make_context):
    """Path 1 wins for "1", path 0 for "-1", at every step: the latents of a path follow each other."""
    policy = make_policy()
    context = make_context(policy, reward=Scores([0.0, 1.0], [2.0, 0.5]), num_prompts=2)
    rows = collected(D3PO(), context)
    assert rows.prompts == ["1", "-1"] * 20
    assert rows.t.unique(sorted=True).tolist() == sorted(policy.timesteps[:-1])
    assert torch.equal(rows.winner_latents[:2], rows.loser_latents[:2])
    assert not torch.equal(rows.winner_latents[0], rows.winner_latents[1])
    assert torch.equal(rows.winner[:-2], rows.winner_latents[2:])
    assert torch.equal(rows.loser[:-2], rows.loser_latents[2:])
    again = make_context(make_policy(), reward=Scores([2.0, 0.5], [0.0, 1.0]), num_prompts=2)
    swapped = collected(D3PO(), again)
    assert torch.equal(swapped.winner, rows.loser)
    assert torch.equal(swapped.loser, rows.winner)


def test_winners_end_higher(make_policy, make_context, latent_reward):
    rows = collected(D3PO(), make_context(make_policy(), reward=latent_reward))
    last = rows.take(rows.t == rows.t.min())
    assert (last.winner.mean((1, 2, 3)) > last.loser.mean((1, 2, 3))).all()
    assert (latent_reward.times[0] == 0).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_ties_and_bad_scores_give_no_rows(make_policy, make_context, bad):
    reward = Scores([1.0, 3.0, bad, 0.0], [1.0, 2.0, 0.0, 4.0])
    context = make_context(make_policy(), reward=reward)
    rows = collected(D3PO(), context)
    assert rows.prompts == ["-1", "-1"] * 20
    assert context.verdicts[0].tolist() == [True, True, False, True]
    assert len(collected(D3PO(), make_context(make_policy(), reward=Scores([1.0] * 4, [1.0] * 4)))) == 0


def test_no_deterministic_step_is_trained_on(make_policy, make_context):
    policy = make_policy("flow")
    rows = collected(D3PO(), make_context(policy))
    assert policy.stds[-1] == 0
    assert rows.t.unique(sorted=True).tolist() == sorted(policy.timesteps[:-2])
    with pytest.raises(UserError, match="training needs eta > 0"):
        D3PO().check(make_policy(eta=0.0), None)


def test_declared_denoiser_calls_are_counted(make_policy, make_context, count_forwards):
    """A minibatch of 3 pairs, guided: 12 latents for the policy and 12 for the reference."""
    policy = make_policy(guidance_scale=5.0)
    context, forwards = make_context(policy), count_forwards(policy)
    rows = collected(D3PO(), context)
    assert forwards == [2 * 2 * 4] * 20
    D3PO().loss(context, rows.take(torch.arange(3)))
    assert forwards[20:] == [12, 12]
    assert D3PO().denoiser_calls(policy) == (20, 2)


@pytest.mark.parametrize("num_steps", [5, 20])
def test_collect_reads_the_device_once_however_long(make_policy, make_context, device_reads, num_steps):
    """To find the decided pairs."""
    context = make_context(make_policy(num_steps=num_steps))
    with device_reads() as reads:
        collected(D3PO(), context)
    assert len(reads) == 1


def test_shards_of_a_round_are_the_round(make_policy, make_context):
    def shard(index, count):
        policy = make_policy()
        policy.shard = (index, count)
        return collected(D3PO(), make_context(policy))

    whole, parts = shard(0, 1), [shard(index, 3) for index in range(3)]
    merged = type(whole).merge(parts)
    assert merged.prompts == whole.prompts
    for name in ("winner_latents", "winner", "loser_latents", "loser", "t", "s"):
        assert torch.equal(getattr(merged, name), getattr(whole, name))


@pytest.mark.parametrize("changes", [{"beta": 0}, {"ratio_clip": 1.0}, {"ratio_clip": 0.0}])
def test_impossible_settings_are_refused(changes):
    with pytest.raises(ValidationError, match=r"greater than 0|less than 1"):
        D3PO(**changes)
