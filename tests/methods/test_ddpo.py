"""DDPO, and with it what all path gradients share but the window."""

import math

import pytest
import torch
from pydantic import ValidationError
from rounds import Scores, collected

from lpobench import sampling
from lpobench.plugin import UserError
from methods.ddpo import DDPO
from methods.flow_grpo import FlowGRPO

KINDS = ["epsilon", "v_prediction", "flow"]


def train(method, policy, context, updates=10):
    optimizer = torch.optim.Adam(policy.trained, lr=0.02)
    for _ in range(updates):
        loss, _ = method.loss(context, collected(method, context))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@pytest.mark.parametrize(
    ("kind", "over", "num_paths"),
    [*((kind, over, 4) for kind in KINDS for over in ("group", "mixed")), ("epsilon", "batch", 16)],
)
def test_updates_raise_the_reward(make_policy, make_context, kind, over, num_paths):
    """Over the round, the prompts' own scores, about 8 and -8, are much of the noise: it needs more paths."""
    policy = make_policy(kind)
    train(DDPO(num_paths=num_paths, normalisation=over), policy, make_context(policy))
    assert policy.trained[0].item() > 0.05


def test_every_step_of_every_path_has_the_advantage_of_its_end(make_policy, make_context):
    """Two prompts, two paths: prompt "1" scores 1 and 3, "-1" scores 8 and 2; group advantages are +-1."""
    policy, reward = make_policy(), Scores([1.0, 8.0], [3.0, 2.0])
    rows = collected(DDPO(num_paths=2), make_context(policy, reward=reward, num_prompts=2))
    assert len(rows) == 20 * 2 * 2
    assert rows.t.unique(sorted=True).tolist() == sorted(policy.timesteps[:-1])
    expected = torch.tensor([-1.0, 1.0, 1.0, -1.0]).repeat(20)  # "1", "1", "-1", "-1" at every step
    torch.testing.assert_close(rows.advantages.flatten(), expected, atol=1e-5, rtol=0)
    assert rows.prompts == ["1", "1", "-1", "-1"] * 20
    (noisy,) = reward.seen
    assert noisy.clean
    assert (noisy.t == 0).all()
    last = rows.t == rows.t.min()
    assert torch.equal(
        rows.samples[last, 0], noisy.latents.unflatten(0, (2, 2)).transpose(0, 1).flatten(0, 1)
    )


def test_a_path_is_made_of_its_steps(make_policy, make_context):
    """x_s of a row is x_t of the same path a step later."""
    rows = collected(DDPO(num_paths=2), make_context(make_policy()))
    latents, samples = rows.latents.view(20, 8, 1, 4, 4), rows.samples.view(20, 8, 1, 4, 4)
    assert torch.equal(samples[:-1], latents[1:])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loss_before_the_first_update(make_policy, make_context, kind, dtype):
    """At ratio 1 it is minus the mean advantage, which is 0; every ratio is exactly 1."""
    policy = make_policy(kind, dtype=dtype)
    context = make_context(policy)
    loss, logs = DDPO().loss(context, collected(DDPO(), context))
    assert loss.item() == pytest.approx(0, abs=1e-5)
    assert logs["ratio"].item() == 1
    assert logs["approx_kl"].item() == logs["clipfrac"].item() == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_bad_score_drops_its_prompt(make_policy, make_context, bad):
    """And is noted for the loop. "-1" has no preference: it is left out, too."""
    reward = Scores([bad, 4.0, 1.0, 1.0], [0.0, 4.0, 2.0, 5.0])
    context = make_context(make_policy(), reward=reward)
    rows = collected(DDPO(num_paths=2), context)
    assert set(rows.prompts) == {"1", "-1"}
    assert len(rows) == 20 * 2 * 2
    assert [verdict.tolist() for verdict in context.verdicts] == [[False, True, True, True]]


def test_equal_scores_are_no_rows(make_policy, make_context):
    reward = Scores(*[[0.1] * 4] * 3)
    for over in ("group", "batch", "mixed"):
        method = DDPO(num_paths=3, normalisation=over)
        assert len(collected(method, make_context(make_policy(), reward=reward))) == 0


@pytest.mark.parametrize(
    "method",
    [
        DDPO(num_paths=3),
        DDPO(num_paths=3, normalisation="batch", trained_share=0.3),
        FlowGRPO(num_paths=3, window=2, window_schedule="random"),
    ],
)
@pytest.mark.parametrize("count", [2, 3])
def test_shards_of_a_round_are_the_round(make_policy, make_context, method, count):
    """Random steps, noise, order of rows, statistics of the round: as one process has them."""

    def shard(index, count):
        policy = make_policy()
        policy.shard = (index, count)
        context = make_context(policy)
        with torch.no_grad():
            return method.collect(context), context.generator.get_state()

    (whole, after), parts = shard(0, 1), [shard(index, count) for index in range(count)]
    merged = type(whole).merge([rows for rows, _ in parts])
    for rows in ((merged, whole), (method.complete(merged), method.complete(whole))):
        ours, expected = (vars(each) for each in rows)
        assert ours.pop("prompts") == expected.pop("prompts")
        assert all(torch.equal(ours[name], expected[name]) for name in expected)
    assert all(torch.equal(state, after) for _, state in parts)


@pytest.mark.parametrize("num_steps", [5, 20])
@pytest.mark.parametrize(
    "method", [DDPO(num_paths=2), DDPO(num_paths=2, trained_share=0.5, normalisation="batch")]
)
def test_a_round_reads_the_device_once_however_long(
    make_policy, make_context, device_reads, method, num_steps
):
    """To find the rows worth training."""
    context = make_context(make_policy(num_steps=num_steps))
    with device_reads() as reads:
        collected(method, context)
    assert len(reads) == 1


@pytest.mark.parametrize("kl_beta", [0.0, 0.1])
def test_declared_denoiser_calls_are_counted(make_policy, make_context, count_forwards, kl_beta):
    """All paths together: one pass per step, none for the reward, which looks at finished latents."""
    policy, method = make_policy(guidance_scale=5.0), DDPO(num_paths=2, kl_beta=kl_beta)
    context, forwards = make_context(policy), count_forwards(policy)
    rows = collected(method, context)
    assert method.denoiser_calls(policy) == (20, 1 + (kl_beta > 0))
    assert forwards == [2 * 2 * 4] * 20
    method.loss(context, rows.take(torch.arange(6)))
    assert forwards[20:] == [2 * 6] * (1 + (kl_beta > 0))


def test_a_pixel_reward_decodes_the_ends_only(make_policy, make_context, pixel_reward):
    policy = make_policy()
    collected(DDPO(num_paths=2), make_context(policy, reward=pixel_reward))
    assert (policy.calls, policy.decodes) == (20, 8)


def test_regular_steps(make_policy, make_context):
    """A quarter of 20 steps: each fourth, from the noisiest on."""
    policy = make_policy()
    method = DDPO(num_paths=2, trained_share=0.25, trained_steps="regular")
    rows = collected(method, make_context(policy))
    assert sorted(set(rows.t.tolist()), reverse=True) == list(policy.timesteps[0:20:4])


def test_random_steps_are_drawn_for_every_round(make_policy, make_context):
    policy = make_policy()
    context, method = make_context(policy, num_prompts=2), DDPO(num_paths=2, trained_share=0.5)
    rounds = [set(collected(method, context).t.tolist()) for _ in range(8)]
    assert all(len(steps) == 10 for steps in rounds)
    assert set.union(*rounds) == set(policy.timesteps[:-1])
    assert set(collected(method, make_context(policy, num_prompts=2)).t.tolist()) == rounds[0]


def test_at_least_one_step_is_trained(make_policy, make_context):
    rows = collected(DDPO(num_paths=2, trained_share=0.01), make_context(make_policy()))
    assert len(rows.t.unique()) == 1


def test_a_step_without_noise_is_never_trained(make_policy, make_context):
    """The last step of a flow under the ddim rule, whatever the range."""
    policy = make_policy("flow")
    rows = collected(DDPO(num_paths=2), make_context(policy))
    assert policy.stds[-1] == 0
    assert rows.t.unique(sorted=True).tolist() == sorted(policy.timesteps[:-2])


def test_steps_outside_the_range_are_sampled_and_not_trained(make_policy, make_context, monkeypatch):
    policy = make_policy()
    method = DDPO(num_paths=2, timestep_range=(10, 500))
    rows = collected(method, make_context(policy))
    assert rows.t.unique(sorted=True).tolist() == list(range(51, 500, 50))
    path = made_path(monkeypatch, method, make_context(make_policy()))
    assert path.stochastic == list(range(20))


def test_only_trained_steps_are_kept(make_policy, make_context):
    """No row's storage holds the rest of the path."""
    method = DDPO(num_paths=2, trained_share=0.1, trained_steps="regular")
    rows = collected(method, make_context(make_policy()))
    assert len(rows) == 2 * 8
    assert rows.latents.untyped_storage().nbytes() == rows.latents.nbytes
    assert rows.samples.untyped_storage().nbytes() == rows.samples.nbytes


@pytest.mark.parametrize("same_start", [True, False])
def test_paths_of_a_prompt_may_share_their_start(make_policy, make_context, monkeypatch, same_start):
    path = made_path(monkeypatch, DDPO(num_paths=3, same_start=same_start), make_context(make_policy()))
    start, end = path.latents[0], path.latents[-1]
    assert torch.equal(start[0], start[1]) == same_start
    assert not torch.equal(start[:, 0], start[:, 1])
    assert not torch.equal(end[0], end[1])


def made_path(monkeypatch, method, context):
    """The path a method has sampled."""
    made, paths = [], sampling.paths
    monkeypatch.setattr(
        sampling, "paths", lambda *args, **options: made.append(paths(*args, **options)) or made[0]
    )
    collected(method, context)
    return made[0]


@pytest.mark.parametrize(
    ("changes", "eta", "message"),
    [
        ({}, 0.0, "training needs eta > 0"),
        ({"timestep_range": (2, 50)}, 1.0, r"timestep_range \[2.0, 50.0\] holds no stochastic sampling step"),
        (
            {"window": 21},
            1.0,
            r"window is 21; 20 stochastic steps start inside timestep_range \[0.0, 1000.0\]",
        ),
    ],
)
def test_nothing_to_train_is_refused_before_training(make_policy, changes, eta, message):
    with pytest.raises(UserError, match=message):
        DDPO(**changes).check(make_policy(eta=eta), None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_paths": 1}, "greater than or equal to 2"),
        ({"clip": 0}, "greater than 0"),
        ({"trained_share": 0}, "greater than 0"),
        ({"trained_share": 1.5}, "less than or equal to 1"),
        ({"normalisation": "none"}, "'group', 'batch' or 'mixed'"),
        ({"kl_beta": -0.1}, "greater than or equal to 0"),
        ({"window": 0}, "greater than 0"),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        DDPO(**changes)
