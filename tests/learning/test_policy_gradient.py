import math
from dataclasses import replace

import pytest
import torch

from lpobench.learning import fork_samples, path_samples, policy_gradient
from lpobench.sampling import forks, paths

KINDS = ["epsilon", "v_prediction", "flow"]
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
PPO = {"clip": 0.2, "advantage_clip": 5.0, "kl_beta": 0.0}


def fork_rows(policy, k=4):
    """Two prompts' forks at the fourth step, with advantages 1, 0, 0, -1."""
    with torch.no_grad():
        (fork,) = forks(policy, ["1", "-1"], k, torch.Generator().manual_seed(0), first=3, last=3)
        advantages = torch.zeros(k, 2)
        advantages[0], advantages[-1] = 1, -1
        return fork_samples(fork, advantages)


def with_ratios(rows, ratios, advantages):
    """Rows whose stored log densities make these ratios."""
    return replace(
        rows, logprobs=rows.logprobs - torch.tensor(ratios).log(), advantages=torch.tensor(advantages)
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_ratio_is_exactly_one_before_the_first_update(make_policy, kind, dtype):
    """Of forks and of paths, whatever the precision and however rows are cut into minibatches."""
    policy = make_policy(kind, dtype=dtype, guidance_scale=3.0)
    with torch.no_grad():
        path = paths(policy, ["1", "-1"], torch.Generator().manual_seed(0), 3)
    rows = path_samples(path, torch.ones(3, 2, dtype=path.logprobs.dtype), path.stochastic)
    for part in [fork_rows(policy), rows, rows.take(torch.arange(5, 8)), rows.take(torch.tensor([2]))]:
        _, logs = policy_gradient(policy, part, **PPO)
        assert logs["ratio"].item() == 1
        assert logs["approx_kl"].item() == logs["clipfrac"].item() == 0


def test_loss_by_hand(make_policy):
    """Advantage 1: min(r, 1.2) at r = 1.5 -> -1.2, at 0.5 -> -0.5. Advantage -1: max(r, 0.8): 1.5 and 0.8."""
    policy = make_policy()
    rows = with_ratios(fork_rows(policy, 2), [[1.5, 0.5], [1.5, 0.5]], [[1.0, 1.0], [-1.0, -1.0]])
    loss, logs = policy_gradient(policy, rows, **PPO)
    assert loss.item() == pytest.approx((-1.2 - 0.5 + 1.5 + 0.8) / 4, abs=1e-6)
    assert logs["ratio"].item() == pytest.approx(1)
    assert logs["approx_kl"].item() == pytest.approx((math.log(1.5) ** 2 + math.log(0.5) ** 2) / 4)
    assert logs["clipfrac"].item() == 1
    assert logs["advantage"].item() == 1
    assert set(logs) == {"ratio", "approx_kl", "clipfrac", "advantage"}
    assert all(value.ndim == 0 and not value.requires_grad for value in logs.values())


def test_advantages_are_limited(make_policy):
    """-7 counts as -5, 9 as 5; at ratio 1 the loss is minus the mean advantage, (2 + 5 + 1 - 5) / 4."""
    policy = make_policy()
    rows = with_ratios(fork_rows(policy, 2), [[1.0, 1.0], [1.0, 1.0]], [[2.0, 9.0], [1.0, -7.0]])
    loss, logs = policy_gradient(policy, rows, **PPO)
    assert loss.item() == pytest.approx(-3 / 4)
    assert logs["advantage"].item() == pytest.approx(13 / 4)


@pytest.mark.parametrize(("ratio", "advantage"), [(1.5, 1.0), (0.5, -1.0)])
def test_no_gradient_once_the_ratio_went_far_enough(make_policy, ratio, advantage):
    policy = make_policy()
    rows = with_ratios(fork_rows(policy, 2), [[ratio] * 2] * 2, [[advantage] * 2] * 2)
    policy_gradient(policy, rows, **PPO)[0].backward()
    assert policy.trained[0].grad.item() == 0
    way_back = replace(rows, advantages=-rows.advantages)
    policy_gradient(policy, way_back, **PPO)[0].backward()
    assert policy.trained[0].grad.item() != 0


def test_no_advantage_is_no_loss_and_no_gradient(make_policy):
    policy = make_policy()
    rows = fork_rows(policy)
    loss, _ = policy_gradient(policy, replace(rows, advantages=torch.zeros(2, 4)), **PPO)
    loss.backward()
    assert (loss.item(), policy.trained[0].grad.item()) == (0, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_first_gradient_is_the_policy_gradient(make_policy, kind):
    """Unclipped, at ratio 1: the gradient of -A log pi, averaged; the latents' noise enters as A z / std."""
    policy = make_policy(kind, dtype=torch.float64)
    rows = fork_rows(policy)
    rows = replace(rows, advantages=rows.advantages.double())
    (clipped,) = torch.autograd.grad(policy_gradient(policy, rows, **PPO)[0], policy.trained)
    step = policy.step(rows.latents, rows.t, rows.s, rows.prompts)
    noise = (rows.samples - step.mean[:, None]) / step.std[:, None]
    advantages = rows.advantages[:, :, None, None, None]
    plain = -(advantages * noise.detach() * step.mean[:, None] / step.std[:, None]).mean()
    torch.testing.assert_close(clipped, torch.autograd.grad(plain, policy.trained)[0], rtol=1e-9, atol=1e-12)
    assert clipped.abs().item() > 1e-4


def test_kl_by_hand(make_policy):
    """A shift d of the prompt's mean moves x0 by d sigma^2 / w and eps by -d alpha sigma / w, with w the variance
    of x_t, alpha^2 / 4 + sigma^2. The step's mean moves by alpha_s dx0 + c deps, and KL is that squared over
    2 std^2. At std^2 + c^2 = sigma_s^2.
    """
    policy, d = make_policy(), 0.2
    rows = fork_rows(policy)
    policy.trained[0].data.fill_(d)
    loss, logs = policy_gradient(policy, rows, **{**PPO, "kl_beta": 10.0})
    without, _ = policy_gradient(policy, rows, **PPO)
    (alpha, sigma), (alpha_s, sigma_s) = (
        (level[0].item() for level in policy.backbone.schedule.levels(t)) for t in (rows.t, rows.s)
    )
    variance, std = alpha**2 / 4 + sigma**2, policy.stds[3]
    c = math.sqrt(sigma_s**2 - std**2)
    moved = d * sigma / variance * (alpha_s * sigma - c * alpha)
    assert logs["kl"].item() == pytest.approx(moved**2 / (2 * std**2), rel=1e-3)
    assert (loss - without).item() == pytest.approx(10 * logs["kl"].item(), rel=1e-4)


def test_kl_at_the_reference_is_zero(make_policy):
    policy = make_policy(guidance_scale=3.0)
    rows = fork_rows(policy)
    (loss, logs), (without, _) = (policy_gradient(policy, rows, **{**PPO, "kl_beta": b}) for b in (1.0, 0.0))
    assert logs["kl"].item() == 0
    assert loss.item() == without.item()


@pytest.mark.parametrize(("kl_beta", "passes"), [(0.0, [2]), (0.1, [2, 2])])
def test_one_pass_for_all_draws_and_one_of_the_reference_for_kl(make_policy, count_forwards, kl_beta, passes):
    """Two rows of four draws: two latents per pass."""
    policy = make_policy()
    rows = fork_rows(policy)
    forwards = count_forwards(policy)
    policy_gradient(policy, rows, **{**PPO, "kl_beta": kl_beta})
    assert forwards == passes
