import math

import pytest
import torch
from pydantic import ValidationError

from lpobench.learning import clip_log_ratio, dpo_loss
from lpobench.plugin import UserError
from methods.lpo import LPO
from methods.none import NoTraining
from methods.step_dpo import StepDPO


def collected(method, context):
    with torch.no_grad():
        return method.collect(context)


def test_one_policy_and_one_reference_pass_per_pair(make_policy, make_context, count_forwards):
    policy = make_policy()
    rows = collected(LPO(), make_context(policy)).take(torch.arange(1))
    forwards = count_forwards(policy)
    LPO().loss(make_context(policy), rows)
    assert forwards == [1, 1]


@pytest.mark.parametrize("clip", [None, 0.1, 1e-3])
def test_gradient_of_the_released_two_pass_loss(make_policy, make_context, clip):
    """The whole loss in float64: policy and reference run apart on winner and loser, log densities
    subtracted.
    """
    policy, method = make_policy(dtype=torch.float64, guidance_scale=2.0), LPO(ratio_clip=clip)
    rows = collected(method, make_context(policy))
    policy.trained[0].data.fill_(0.003)

    def released(x):
        new = policy.step(rows.latents, rows.t, rows.s, rows.prompts)
        with policy.reference() as reference:
            ref = reference.step(rows.latents, rows.t, rows.s, rows.prompts)
        ratio = new.logprob(x) - ref.logprob(x)
        return ratio if clip is None else clip_log_ratio(ratio, clip)

    one = method.loss(make_context(policy), rows)[0]
    two = dpo_loss(released(rows.winner), released(rows.loser), method.beta)
    assert one.item() != pytest.approx(math.log(2), abs=1e-3)
    gradients = [torch.autograd.grad(loss, policy.trained)[0] for loss in (one, two)]
    torch.testing.assert_close(*gradients, rtol=1e-7, atol=1e-9)


def test_clip_is_logged_and_stops_the_gradient(make_policy, make_context):
    policy = make_policy()
    rows = collected(LPO(), make_context(policy))
    policy.trained[0].data.fill_(1.0)
    loss, logs = LPO(ratio_clip=1e-6).loss(make_context(policy), rows)
    assert logs["clipfrac"].item() == 1
    loss.backward()
    assert policy.trained[0].grad.item() == 0
    assert "clipfrac" not in LPO(ratio_clip=None).loss(make_context(policy), rows)[1]


def test_logs_say_what_moved(make_policy, make_context):
    """A policy shifted towards the reward finds every winner likelier and most losers less likely."""
    policy = make_policy()
    rows = collected(LPO(), make_context(policy))
    policy.trained[0].data.fill_(0.01)
    logs = LPO().loss(make_context(policy), rows)[1]
    assert logs["accuracy"].item() == 1
    assert logs["margin"].item() > 0
    assert logs["ratio_winner"].item() > logs["ratio_loser"].item()


def test_timestep_range_limits_rows_and_rollout(make_policy, make_context, latent_reward):
    """The five noisiest steps, 951 to 751: five denoiser calls, scores only there."""
    policy = make_policy()
    rows = collected(
        LPO(timestep_range=(750, 1000), min_gap=(0, 0)), make_context(policy, reward=latent_reward)
    )
    assert policy.calls == 5
    assert set(rows.t.tolist()) == {951, 901, 851, 801, 751}
    assert [times[0].item() for times in latent_reward.times] == [951, 901, 851, 801, 751]


def test_late_range_samples_the_early_steps_plainly(make_policy, make_context, latent_reward):
    policy = make_policy()
    rows = collected(LPO(timestep_range=(0, 101), min_gap=(0, 0)), make_context(policy, reward=latent_reward))
    assert policy.calls == 20
    assert set(rows.t.tolist()) == {101, 51, 1}
    assert len(latent_reward.times) == 3


def test_range_without_steps_is_refused(make_policy, make_context):
    with pytest.raises(
        UserError, match=r"timestep_range \[2.0, 50.0\] holds no stochastic sampling step; .* 951, 901"
    ):
        collected(LPO(timestep_range=(2, 50)), make_context(make_policy()))


def test_deterministic_sampling_is_refused(make_policy, make_context):
    with pytest.raises(UserError, match="training needs eta > 0"):
        collected(LPO(), make_context(make_policy(eta=0.0)))


@pytest.mark.parametrize(("score_at", "first"), [("t", 951), ("s", 901), ("0", 0)])
def test_reward_is_told_t_or_s_or_0(make_policy, make_context, latent_reward, score_at, first):
    collected(LPO(score_at=score_at), make_context(make_policy(), reward=latent_reward))
    assert latent_reward.times[0].unique().tolist() == [first]


def test_a_single_margin_is_both():
    assert LPO(min_gap=0.3) == LPO(min_gap=(0.3, 0.3))
    assert LPO(min_gap=0.3, threshold="constant").model_dump(mode="json")["min_gap"] == [0.3, 0.3]


def test_no_deterministic_step_is_trained_on(make_policy, make_context):
    policy = make_policy("flow")
    rows = collected(LPO(min_gap=(0, 0)), make_context(policy))
    assert policy.stds[-1] == 0
    assert policy.timesteps[-2] not in rows.t.tolist()
    assert policy.timesteps[-3] in rows.t.tolist()


def test_thresholds_are_told_for_every_step_that_is_compared(make_policy):
    """At 20 steps t is 951, 901, ..., 1, and the last of them has noise too; the range leaves 951 to 901 out."""
    found = StepDPO(beta=1.0, min_gap=(0.2, 0.6), threshold="timestep", timestep_range=(0, 851)).thresholds(
        make_policy()
    )
    times = [float(t) for t in found]
    assert times == [t for t in range(951, 0, -50) if t <= 851 and t >= min(times)]
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert min(found.values()) == pytest.approx(0.2)
    assert max(found.values()) < 0.6
    chains = StepDPO(beta=1.0, min_gap=(0.4, 0.4), threshold="constant", inner_steps=3).thresholds(
        make_policy()
    )
    assert [float(t) for t in chains] == [951, 751, 551, 351, 151]


def test_nobody_sure_is_no_row(make_policy, make_context):
    class Indifferent:
        latent_space = None
        differentiable = True

        def score(self, noisy):
            return torch.zeros(len(noisy.latents))

    assert len(collected(LPO(), make_context(make_policy(), reward=Indifferent()))) == 0


def test_winners_are_sure_and_better(make_policy, make_context):
    """Every kept pair's margin exceeds the lowest threshold, and the noisiest step's its own, 0.5."""
    rows = collected(LPO(), make_context(make_policy()))
    gap = rows.winner.mean((1, 2, 3)) - rows.loser.mean((1, 2, 3))
    alpha, _ = make_policy().backbone.schedule.levels(rows.t)
    margin = torch.tanh(8 * gap / alpha.clamp(min=0.1) / 2)
    assert (margin > 0.35).all()
    assert (margin[rows.t == 951] > 0.5).all()


@pytest.mark.parametrize("num_steps", [5, 20])
def test_collect_reads_the_device_once_however_long_the_rollout(
    make_policy, make_context, device_reads, num_steps
):
    """To find the sure pairs."""
    context = make_context(make_policy(num_steps=num_steps))
    with device_reads() as reads:
        collected(LPO(), context)
    assert len(reads) == 1


def test_a_pixel_reward_trains_in_21_calls(make_policy, make_context, pixel_reward):
    policy = make_policy()
    spo = StepDPO(beta=10.0, min_gap=(0.0, 0.0))
    rows = collected(spo, make_context(policy, reward=pixel_reward))
    assert policy.calls == 21
    assert len(rows) == 20 * 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"threshold": "constant"}, "constant needs two equal margins"),
        ({"timestep_range": (900, 100)}, "the smaller timestep comes first"),
        ({"ratio_clip": 1.0}, "less than 1"),
        ({"num_candidates": 1}, "greater than or equal to 2"),
        ({"min_gap": (0.1, 1.0)}, "less than 1"),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        LPO(**changes)


def test_the_baseline_does_not_train():
    assert not NoTraining().trains
    assert NoTraining().needs == frozenset()
