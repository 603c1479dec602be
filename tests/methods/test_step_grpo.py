import pytest
import torch
from pydantic import ValidationError

from lpobench.plugin import UserError
from methods.step_grpo import StepGRPO

GRPO = StepGRPO()


def collected(method, context):
    with torch.no_grad():
        return method.collect(context)


class Scores:
    """A latent reward made of a function of the candidate's number and of the prompt."""

    latent_space = None
    differentiable = False

    def __init__(self, score):
        self.score_of = score

    def score(self, noisy):
        b = len(noisy.prompts) // 4
        return torch.tensor([self.score_of(row // b, prompt) for row, prompt in enumerate(noisy.prompts)])


def by_number(*scores):
    return Scores(lambda k, prompt: float(scores[k]))


def test_the_papers_numbers():
    """LPO eq. 13: K = 4, epsilon = 0.1, beta = 0.1."""
    assert (GRPO.num_candidates, GRPO.clip, GRPO.kl_beta) == (4, 0.1, 0.1)


def test_advantages_are_z_scores_of_the_fork(make_policy, make_context):
    """1, 2, 3, 6: mean 3, deviations -2, -1, 0, 3, variance 14 / 4, so -1.069, -0.535, 0, 1.604."""
    rows = collected(GRPO, make_context(make_policy(), reward=by_number(1, 2, 3, 6)))
    assert len(rows) == 20 * 4
    expected = torch.tensor([-1.0690, -0.5345, 0.0, 1.6036]).expand(80, 4)
    torch.testing.assert_close(rows.advantages, expected, rtol=0, atol=1e-4)


def test_identical_rewards_give_no_row(make_policy, make_context):
    for score in (0.0, 0.1, -3.3):
        reward = Scores(lambda k, prompt, score=score: score)
        assert len(collected(GRPO, make_context(make_policy(), reward=reward))) == 0


def test_a_group_that_agrees_is_left_out_alone(make_policy, make_context):
    reward = Scores(lambda k, prompt: float(k) if prompt == "1" else 7.0)
    rows = collected(GRPO, make_context(make_policy(), reward=reward))
    assert len(rows) == 20 * 2
    assert set(rows.prompts) == {"1"}


def test_a_group_with_a_nan_is_left_out_alone(make_policy, make_context):
    reward = Scores(lambda k, prompt: torch.nan if (k, prompt) == (2, "1") else float(k))
    context = make_context(make_policy(), reward=reward)
    rows = collected(GRPO, context)
    assert set(rows.prompts) == {"-1"}
    assert torch.cat(context.verdicts).float().mean() == 0.5


def test_the_gradient_on_policy_is_the_papers(make_policy, make_context):
    """At ratio 1 the gradient is -(1/k) sum_i A_i (x_i - mean) / std^2 averaged over elements, times the slope of
    the mean: in terms of the drawn noise z, -(1/k) sum_i A_i z_i / std. The KL has none at the reference.
    """
    policy = make_policy(dtype=torch.float64)
    context = make_context(policy)
    rows = collected(GRPO, context)
    loss, logs = GRPO.loss(context, rows)
    gradient = torch.autograd.grad(loss, policy.trained)[0]
    means = []
    for shift in (-1e-4, 0.0, 1e-4):
        policy.trained[0].data.fill_(shift)
        with torch.no_grad():
            means.append(policy.step(rows.latents, rows.t, rows.s, rows.prompts))
    slope = (means[2].mean - means[0].mean) / 2e-4
    z = (rows.samples - means[1].mean[:, None]) / means[1].std[:, None]
    pull = (rows.advantages[:, :, None, None, None] * z).mean(1) / means[1].std
    assert gradient.item() == pytest.approx(-(pull * slope).mean((1, 2, 3)).mean().item(), rel=1e-4)
    assert (logs["ratio"].item(), logs["kl"].item()) == (1, 0)


def test_the_kl_is_that_of_two_gaussians(make_policy, make_context):
    """A shift d of mu moves the mean of the step by m d: KL = (m d)^2 / (2 std^2). From t = 951 to 901, with
    v = alpha_t^2 / 4 + sigma_t^2, m = alpha_s sigma_t^2 / v - c alpha_t sigma_t / v.
    """
    policy = make_policy()
    context = make_context(policy)
    method = StepGRPO(timestep_range=(951, 951), kl_beta=2.0)
    rows = collected(method, context)
    at_rest = method.loss(context, rows)[0].item()
    policy.trained[0].data.fill_(0.5)
    loss, logs = method.loss(context, rows)
    (alpha_t, sigma_t), (alpha_s, sigma_s) = (
        (level.item() for level in policy.backbone.schedule.levels(t[:1])) for t in (rows.t, rows.s)
    )
    std, v = policy.stds[0], alpha_t**2 / 4 + sigma_t**2
    m = alpha_s * sigma_t**2 / v - (sigma_s**2 - std**2) ** 0.5 * alpha_t * sigma_t / v
    assert logs["kl"].item() == pytest.approx((0.5 * m) ** 2 / (2 * std**2), rel=1e-4)
    without = method.model_copy(update={"kl_beta": 0.0}).loss(context, rows)[0].item()
    assert loss.item() - without == pytest.approx(2 * logs["kl"].item(), rel=1e-4)
    assert at_rest == pytest.approx(0, abs=1e-6)


def test_the_clip_stops_a_ratio_that_has_gone_far_enough(make_policy, make_context):
    """Far from the policy that sampled, draws with a positive advantage and a ratio above 1.1 pull no more, and
    neither do those with a negative one below 0.9.
    """
    policy = make_policy()
    context = make_context(policy, reward=by_number(0, 0, 0, 1))
    rows = collected(GRPO, context)
    with torch.no_grad():
        rows.logprobs[:, 3] -= 1.0  # the winner has become e times likelier, the others less so
        rows.logprobs[:, :3] += 1.0
    loss, logs = GRPO.model_copy(update={"kl_beta": 0.0}).loss(context, rows)
    assert logs["clipfrac"].item() == 1
    assert torch.autograd.grad(loss, policy.trained)[0].item() == 0


def test_one_policy_and_one_reference_pass_per_group(make_policy, make_context, count_forwards):
    policy = make_policy()
    context = make_context(policy)
    rows = collected(GRPO, context).take(torch.arange(3))
    forwards = count_forwards(policy)
    GRPO.loss(context, rows)
    assert forwards == [3, 3]
    forwards.clear()
    StepGRPO(kl_beta=0).loss(context, rows)
    assert forwards == [3]


def test_the_device_is_read_once_however_long_the_rollout(make_policy, make_context, device_reads):
    for num_steps in (5, 20):
        context = make_context(make_policy(num_steps=num_steps))
        with device_reads() as reads:
            collected(GRPO, context)
        assert len(reads) == 1


def test_the_range_limits_rollout_and_rows(make_policy, make_context, latent_reward):
    policy = make_policy()
    method = StepGRPO(timestep_range=(850, 1000), score_at="t")
    rows = collected(method, make_context(policy, reward=latent_reward))
    assert policy.calls == 3 == method.denoiser_calls(policy)[0]
    assert set(rows.t.tolist()) == {951, 901, 851}
    assert [times[0].item() for times in latent_reward.times] == [951, 901, 851]


def test_nothing_to_train_on_is_said_beforehand(make_policy, latent_reward):
    with pytest.raises(UserError, match="holds no stochastic sampling step"):
        StepGRPO(timestep_range=(2, 50)).check(make_policy(), latent_reward)
    with pytest.raises(UserError, match="training needs eta > 0"):
        GRPO.check(make_policy(eta=0.0), latent_reward)
    GRPO.check(make_policy(), latent_reward)


def test_shards_together_are_the_whole(make_policy, make_context):
    def shard(index, count):
        policy = make_policy()
        policy.shard = index, count
        return collected(GRPO, make_context(policy))

    whole, merged = (
        shard(0, 1),
        GRPO.complete(type(shard(0, 1)).merge([shard(index, 2) for index in range(2)])),
    )
    assert merged.prompts == whole.prompts
    for name in ("latents", "t", "s", "samples", "logprobs"):
        torch.testing.assert_close(getattr(merged, name), getattr(whole, name))
    torch.testing.assert_close(merged.advantages, whole.advantages, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_candidates": 1}, "greater than or equal to 2"),
        ({"clip": 0.0}, "greater than 0"),
        ({"kl_beta": -1.0}, "greater than or equal to 0"),
        ({"timestep_range": (900, 100)}, "the smaller timestep comes first"),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        StepGRPO(**changes)
