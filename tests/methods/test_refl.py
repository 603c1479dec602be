import pytest
import torch
from made import Brighter, register_toys, toy_spec
from pydantic import ValidationError

from lpobench.learning import NonFiniteScore
from lpobench.plugin import UserError
from lpobench.run import execute
from lpobench.sampling import Noisy, paths
from methods.refl import ReFL


def collected(method, context):
    with torch.no_grad():
        return method.collect(context)


def gradient(method, context, rows):
    return torch.autograd.grad(method.loss(context, rows)[0], context.policy.trained)[0].item()


def loss_at(method, context, rows, shift):
    context.policy.trained[0].data.fill_(shift)
    with torch.no_grad():
        return method.loss(context, rows)[0].item()


class Broken:
    """Gives one prompt's rows a nan, whose gradient is nan too."""

    latent_space = None
    differentiable = True

    def __init__(self, reward, prompt="1"):
        self.reward, self.prompt = reward, prompt

    def score(self, noisy):
        bad = torch.tensor([prompt == self.prompt for prompt in noisy.prompts])
        spoilt = Noisy(
            noisy.latents / (~bad).float().view(-1, 1, 1, 1),
            noisy.t,
            noisy.prompts,
            noisy.policy,
            noisy.clean,
        )
        return self.reward.score(spoilt)


@pytest.mark.parametrize("target", ["step", "estimate"])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "flow"])
@pytest.mark.parametrize("pixels", [False, True])
def test_the_gradient_is_that_of_the_loss(
    make_policy, make_context, latent_reward, pixel_reward, target, kind, pixels
):
    """Central difference in float64, away from the reference, with a hinge that some rows have reached, and a KL."""
    method = ReFL(target=target, hinge=20.0 if pixels else 4.0, scale=0.7, kl_beta=0.3)
    context = make_context(
        make_policy(kind, dtype=torch.float64), reward=pixel_reward if pixels else latent_reward
    )
    rows = collected(method, context)
    around = [loss_at(method, context, rows, 0.2 + step) for step in (-1e-4, 1e-4)]
    context.policy.trained[0].data.fill_(0.2)
    found = gradient(method, context, rows)
    assert abs(found) > 1e-3
    assert found == pytest.approx((around[1] - around[0]) / 2e-4, rel=2e-3)


def test_the_gradient_of_one_step_by_hand(make_policy, make_context):
    """The score is 8 times the mean of x_s over alpha_s, and a shift of mu moves x_s by
    m = alpha_s sigma_t^2 / v - c alpha_t sigma_t / v, v = alpha_t^2 / 4 + sigma_t^2: the gradient is -8 m / alpha_s.
    """
    policy = make_policy()
    context = make_context(policy)
    method = ReFL(timestep_range=(501, 501))
    rows = collected(method, context)
    (alpha_t, sigma_t), (alpha_s, sigma_s) = (
        (level.item() for level in policy.backbone.schedule.levels(t[:1])) for t in (rows.t, rows.s)
    )
    v, std = alpha_t**2 / 4 + sigma_t**2, policy.stds[9]
    m = alpha_s * sigma_t**2 / v - (sigma_s**2 - std**2) ** 0.5 * alpha_t * sigma_t / v
    assert gradient(method, context, rows) == pytest.approx(-8 * m / alpha_s, rel=1e-4)
    halved = gradient(ReFL(timestep_range=(501, 501), scale=0.5), context, rows)
    assert halved == pytest.approx(-4 * m / alpha_s, rel=1e-4)


def test_the_gradient_of_an_estimate_by_hand(make_policy, make_context):
    """A shift of mu moves x0 by sigma_t^2 / v; finished latents have t = 0 and alpha 0.99957."""
    policy = make_policy()
    context = make_context(policy)
    method = ReFL(timestep_range=(501, 501), target="estimate")
    rows = collected(method, context)
    alpha, sigma = (level.item() for level in policy.backbone.schedule.levels(rows.t[:1]))
    slope = sigma**2 / (alpha**2 / 4 + sigma**2)
    assert gradient(method, context, rows) == pytest.approx(-8 * slope / 0.99957, rel=1e-4)
    assert context.reward.times[-1].tolist() == [0] * 4


def test_what_is_scored_is_where_the_rollout_goes(make_policy, make_context, latent_reward):
    """Before the first update x_s is, row for row, the next x_t of the rollout, at its own time."""
    policy = make_policy()
    context = make_context(policy)
    rows = collected(ReFL(), context)
    with torch.no_grad():
        path = paths(make_policy(), ["1", "-1"] * 2, torch.Generator().manual_seed(0), 1)
    expected = latent_reward.score(Noisy(path.latents[1:].flatten(0, 2), rows.s, rows.prompts, policy))
    logs = ReFL().loss(context, rows)[1]
    assert logs["score"].item() == pytest.approx(expected.mean().item(), rel=1e-5)
    assert torch.equal(latent_reward.times[-1], rows.s)


def test_every_latent_on_the_way_is_a_row_and_the_last_step_costs_no_call(make_policy, make_context):
    policy = make_policy()
    rows = collected(ReFL(), make_context(policy))
    assert len(rows) == 20 * 4
    assert policy.calls == 19 == ReFL().denoiser_calls(policy)[0]


@pytest.mark.parametrize("seed", range(4))
def test_a_random_step_ends_the_rollout(make_policy, make_context, seed):
    policy = make_policy()
    rows = collected(ReFL(num_steps=1), make_context(policy, seed=seed))
    assert len(rows) == 4
    assert policy.timesteps[policy.calls] == rows.t.unique().item()


def test_random_steps_are_drawn_anew_and_all_of_them(make_policy, make_context):
    """Two of the three in the range, 12 times: never the same twice, and none is always left out."""
    context, method = make_context(make_policy()), ReFL(num_steps=2, timestep_range=(0, 101))
    drawn = [frozenset(collected(method, context).t.tolist()) for _ in range(12)]
    assert all(len(steps) == 2 for steps in drawn)
    assert len(set(drawn)) == 3
    assert len(collected(ReFL(num_steps=9, timestep_range=(0, 101)), context)) == 3 * 4


def test_one_forward_pass_and_one_of_the_reference_where_there_is_a_kl(
    make_policy, make_context, pixel_reward, count_forwards
):
    """A pixel reward on x_s looks at the estimate from there: its own pass. One on the estimate needs none."""
    policy = make_policy()
    context = make_context(policy)
    rows = collected(ReFL(), context).take(torch.arange(3))
    forwards = count_forwards(policy)
    for method, reward, expected in (
        (ReFL(), context.reward, [3]),
        (ReFL(kl_beta=0.1), context.reward, [3, 3]),
        (ReFL(), pixel_reward, [3, 3]),
        (ReFL(target="estimate"), pixel_reward, [3]),
    ):
        context.reward = reward
        forwards.clear()
        method.loss(context, rows)
        assert forwards == expected


def test_the_kl_is_that_of_two_gaussians(make_policy, make_context):
    """Zero at the reference; a mean moved by m d, as above, gives (m d)^2 / (2 std^2)."""
    policy = make_policy()
    context = make_context(policy)
    method = ReFL(timestep_range=(501, 501), kl_beta=3.0)
    rows = collected(method, context)
    assert method.loss(context, rows)[1]["kl"].item() == 0
    (alpha_t, sigma_t), (alpha_s, sigma_s) = (
        (level.item() for level in policy.backbone.schedule.levels(t[:1])) for t in (rows.t, rows.s)
    )
    v, std = alpha_t**2 / 4 + sigma_t**2, policy.stds[9]
    m = alpha_s * sigma_t**2 / v - (sigma_s**2 - std**2) ** 0.5 * alpha_t * sigma_t / v
    policy.trained[0].data.fill_(0.4)
    loss, logs = method.loss(context, rows)
    assert logs["kl"].item() == pytest.approx((0.4 * m) ** 2 / (2 * std**2), rel=1e-4)
    assert (loss + logs["score"]).item() == pytest.approx(3 * logs["kl"].item(), rel=1e-3)


def test_scores_above_the_hinge_pull_no_more(make_policy, make_context):
    """Prompt 1 has scores near 8, prompt -1 near -8; the hinge is at 0."""
    context = make_context(make_policy())
    rows = collected(ReFL(timestep_range=(1, 1)), context)
    loss, logs = ReFL(hinge=0.0).loss(context, rows)
    assert logs["saturated"].item() == 0.5
    kept = rows.take(torch.tensor([prompt == "-1" for prompt in rows.prompts]))
    alone, _ = ReFL().loss(context, kept)
    assert loss.item() == pytest.approx(alone.item() / 2, rel=1e-6)
    assert gradient(ReFL(hinge=0.0), context, rows) == pytest.approx(
        gradient(ReFL(), context, kept) / 2, rel=1e-5
    )
    assert gradient(ReFL(hinge=-20.0), context, rows) == 0


@pytest.mark.parametrize("target", ["step", "estimate"])
def test_a_row_whose_score_is_nan_is_left_out_and_noted(make_policy, make_context, latent_reward, target):
    """Its gradient, nan as well, does not reach the weights that it shares with the others. Its KL goes, too."""
    method = ReFL(target=target, kl_beta=0.5)
    policy = make_policy()
    context = make_context(policy, reward=Broken(latent_reward))
    rows = collected(method, context)
    policy.trained[0].data.fill_(0.1)
    loss, logs = method.loss(context, rows)
    found = torch.autograd.grad(loss, policy.trained)[0].item()
    assert torch.cat(context.verdicts).float().mean() == 0.5
    context.reward = latent_reward
    kept = rows.take(torch.tensor([prompt == "-1" for prompt in rows.prompts]))
    assert loss.item() == pytest.approx(method.loss(context, kept)[0].item() / 2, rel=1e-5)
    assert found == pytest.approx(gradient(method, context, kept) / 2, rel=1e-5)
    assert logs["score"].item() == pytest.approx(method.loss(context, kept)[1]["score"].item(), rel=1e-5)


def test_a_reward_without_gradient_is_refused_beforehand(make_policy, latent_reward):
    class Flat:
        latent_space, differentiable = None, False

    with pytest.raises(UserError, match="has to be differentiable for this method, Flat is not"):
        ReFL().check(make_policy(), Flat())
    with pytest.raises(UserError, match="holds no stochastic sampling step"):
        ReFL(timestep_range=(2, 50)).check(make_policy(), latent_reward)
    ReFL().check(make_policy(), latent_reward)


@pytest.fixture
def toy_run(tmp_path, monkeypatch):
    """A run of three updates on the Gaussian backbone, with another score for the reward if wanted."""
    register_toys(monkeypatch)

    def run(score=None, differentiable=True):
        if score is not None:
            monkeypatch.setattr(Brighter, "score", score)
        monkeypatch.setattr(Brighter, "differentiable", differentiable)
        spec = toy_spec(tmp_path, method={"name": "methods.refl:ReFL", "num_steps": 2})
        return execute(spec, tmp_path / "out")

    return run


def test_a_run_raises_the_reward(toy_run):
    """Rounds of 4 prompts at 2 steps are one update of 8 rows; every row is scored, in the update."""
    record = toy_run()
    assert record.metrics["light"].low > 0
    assert record.training["collected"] == record.training["trained"] == record.training["scored"] == 24
    assert record.training["dropped"] == 0
    assert record.costs["update"].calls == 3


def test_a_run_drops_rows_without_a_score_counts_and_says_so(toy_run, capsys):
    def score(self, noisy):
        bad = torch.tensor([float(prompt) % 4 == 0 for prompt in noisy.prompts])
        return (noisy.latents / (~bad).float().view(-1, 1, 1, 1)).mean((1, 2, 3))

    record = toy_run(score)
    assert record.training["scored"] == 24
    assert 0 < record.training["dropped"] < 24
    assert "groups had nan or inf scores and were dropped" in capsys.readouterr().err
    assert record.metrics["light"].low > 0


def test_a_run_without_any_score_stops_before_the_first_update(toy_run, tmp_path):
    with pytest.raises(NonFiniteScore, match="update 1: the reward returned nan or inf for every prompt"):
        toy_run(lambda self, noisy: noisy.latents.mean((1, 2, 3)) * torch.nan)


def test_a_run_with_a_reward_without_gradient_leaves_nothing_behind(toy_run, tmp_path):
    with pytest.raises(UserError, match="has to be differentiable for this method, Brighter is not"):
        toy_run(differentiable=False)
    assert not (tmp_path / "out").exists()


def test_nothing_is_read_from_the_device(make_policy, make_context, device_reads):
    context = make_context(make_policy())
    with device_reads() as reads:
        rows = collected(ReFL(), context)
        ReFL(hinge=1.0, kl_beta=0.1).loss(context, rows)[0].backward()
    assert reads == []


@pytest.mark.parametrize("num_steps", [None, 1])
def test_shards_together_are_the_whole(make_policy, make_context, num_steps):
    def shard(index, count):
        policy = make_policy()
        policy.shard = index, count
        return collected(ReFL(num_steps=num_steps), make_context(policy))

    whole = shard(0, 1)
    merged = type(whole).merge([shard(index, 2) for index in range(2)])
    assert merged.prompts == whole.prompts
    for name in ("latents", "t", "s", "noise"):
        torch.testing.assert_close(getattr(merged, name), getattr(whole, name))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_steps": 0}, "greater than 0"),
        ({"scale": 0.0}, "greater than 0"),
        ({"kl_beta": -0.1}, "greater than or equal to 0"),
        ({"target": "image"}, "'step' or 'estimate'"),
        ({"timestep_range": (9, 1)}, "the smaller timestep comes first"),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        ReFL(**changes)
