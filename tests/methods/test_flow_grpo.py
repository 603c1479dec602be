import pytest
import torch
from rounds import collected

from lpobench import sampling
from lpobench.plugin import UserError
from lpobench.sampling import RectifiedFlow, transition
from methods.flow_grpo import FlowGRPO

FLOW_RULES = [("flow_sde", 0.7), ("dance_sde", 0.3), ("cps", 0.8), ("ddim", 1.0)]


@pytest.fixture
def flow(make_policy):
    """Ten steps on SD3.5's grid."""
    return lambda rule="flow_sde", eta=0.7, **options: make_policy(
        "flow", **{"num_steps": 10, "rule": rule, "eta": eta, **options}
    )


@pytest.fixture
def sampled(monkeypatch):
    """The paths that methods have made."""
    made, paths = [], sampling.paths

    def spy(*args, **options):
        made.append(paths(*args, **options))
        return made[-1]

    monkeypatch.setattr(sampling, "paths", spy)
    return made


def windows(policy, make_context, sampled, rounds, **settings):
    """First and last stochastic step of each round."""
    method = FlowGRPO(num_paths=2, **settings)
    context = make_context(policy, num_prompts=2)
    for context.round in rounds:
        collected(method, context)
    return [(path.stochastic[0], path.stochastic[-1]) for path in sampled]


@pytest.mark.parametrize(("rule", "eta"), FLOW_RULES)
def test_updates_raise_the_reward(flow, make_context, rule, eta):
    """Under ddim and cps without the step to sigma 0.009, whose std is 0.009 too."""
    quiet = rule in ("ddim", "cps")
    policy, method = flow(rule, eta), FlowGRPO(num_paths=8, timestep_range=(300 if quiet else 10, 1000))
    context, optimizer = make_context(policy), torch.optim.Adam(policy.trained, lr=0.02)
    for _ in range(10):
        loss, logs = method.loss(context, collected(method, context))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert policy.trained[0].item() > 0.05
    assert logs["kl"].item() > 0


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_runs_on_sd_schedules(make_policy, make_context, kind):
    policy = make_policy(kind)
    context, method = make_context(policy), FlowGRPO(num_paths=4)
    rows = collected(method, context)
    assert len(rows.t.unique()) == 19
    loss, logs = method.loss(context, rows)
    (gradient,) = torch.autograd.grad(loss, policy.trained)
    assert gradient.item() < 0  # descent raises the shift, and the reward
    assert logs["ratio"].item() == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rule", "eta"), FLOW_RULES)
def test_ratio_is_exactly_one_at_the_start(flow, make_context, rule, eta, dtype):
    """Of every trained step, also the late ones, whose noise is little."""
    policy = flow(rule, eta, dtype=dtype, guidance_scale=4.5)
    context, method = make_context(policy), FlowGRPO(num_paths=4, timestep_range=(0, 1000), kl_beta=0)
    rows = collected(method, context)
    assert len(rows.t.unique()) == (9 if policy.stds[-1] == 0 else 10)
    for row in range(0, len(rows), 5):
        _, logs = method.loss(context, rows.take(torch.tensor([row])))
        assert (logs["ratio"].item(), logs["approx_kl"].item()) == (1, 0)


@pytest.mark.parametrize(("rule", "eta"), FLOW_RULES)
def test_nine_of_ten_steps_are_trained(flow, make_context, sampled, rule, eta):
    """The last one is left out, with the SDE rules it has noise all the same."""
    policy = flow(rule, eta)
    rows = collected(FlowGRPO(num_paths=4), make_context(policy))
    assert sampled[0].stds == policy.stds
    assert rows.t.unique(sorted=True).tolist() == sorted(policy.timesteps[:9])


def test_denoising_reduction_is_the_policys_grid(flow, make_context):
    """Ten steps in training; how many the evaluation takes is the evaluation's own setting."""
    policy = flow()
    collected(FlowGRPO(num_paths=2), make_context(policy))
    assert policy.calls == FlowGRPO().denoiser_calls(policy)[0] == 10


def test_residual_noise_of_flow_sde():
    """On SD3.5's grid at 0.7, the noise x_s has after a step, sqrt(c^2 + std^2), against sigma_s: the SDE step adds
    more than it should, most near the end. Dance's eta of 0.3 does little harm at first, cps and ddim none.
    """
    schedule = RectifiedFlow(3.0)
    grid = schedule.timesteps(10)

    def residual(rule, eta):
        _, c, std = (part.flatten() for part in transition(schedule, grid[:-1], grid[1:], rule, eta))
        return (c**2 + std**2).sqrt()[:9].tolist()

    target = [0.960, 0.913, 0.858, 0.790, 0.707, 0.602, 0.465, 0.278, 0.0089]
    assert residual("flow_sde", 0.7) == pytest.approx(
        [1.001, 0.972, 0.882, 0.809, 0.725, 0.624, 0.497, 0.342, 0.240], abs=6e-4
    )
    for rule, eta in [("cps", 0.8), ("ddim", 1.0)]:
        assert residual(rule, eta) == pytest.approx(target, abs=6e-4)
    assert residual("dance_sde", 0.3)[:6] == pytest.approx(target[:6], abs=0.01)


def test_a_released_step_by_hand(flow):
    """x = 0.5, v = 0.2 from sigma 0.7073 to 0.6022, a = 0.7: g = s^2 / (2 sigma) = 0.49 / (2 * 0.2927) = 0.8370 and
    dt = -0.1051. Mean 0.5 (1 - 0.8370 * 0.1051) - 0.2 * 0.1051 (1 + 0.8370 * 0.2927) = 0.4560 - 0.0262 = 0.4298,
    std = sqrt(2 * 0.7073 * 0.8370 * 0.1051) = 0.3528.
    """
    policy = flow()
    x, v = torch.full((1, 1, 4, 4), 0.5), torch.full((1, 1, 4, 4), 0.2)
    t, s = (policy.grid[index].view(1) for index in (5, 6))
    step = policy.step_from(*policy.backbone.schedule.split_prediction(v, x, t), t, s)
    assert step.mean.flatten().tolist() == pytest.approx([0.4298] * 16, abs=1e-4)
    assert step.std.item() == pytest.approx(0.3528, abs=1e-4)


def test_window_steps_alone_have_noise_and_rows(flow, make_context, sampled):
    """MixGRPO: window 4 at round 0 is the four noisiest steps; all others are deterministic."""
    policy = flow()
    rows = collected(FlowGRPO(num_paths=3, window=4), make_context(policy))
    (path,) = sampled
    assert path.stochastic == [0, 1, 2, 3]
    assert rows.t.unique(sorted=True).tolist() == sorted(policy.timesteps[:4])
    assert len(rows) == 4 * 3 * 4
    euler = policy.step(
        path.latents[6].flatten(0, 1), *(policy.grid[i].expand(12) for i in (6, 7)), path.prompts * 3, 0.0
    )
    assert torch.equal(euler.mean, path.latents[7].flatten(0, 1))


def test_progressive_window(flow, make_context, sampled):
    """Nine usable steps, window 4: six places, 25 rounds each, then from the start."""
    rounds = [0, 24, 25, 49, 50, 125, 149, 150]
    found = windows(flow(), make_context, sampled, rounds, window=4)
    assert [first for first, _ in found] == [0, 0, 1, 1, 2, 5, 5, 0]
    assert all(last == first + 3 for first, last in found)


def test_progressive_window_with_stride(flow, make_context, sampled):
    """Two rounds per place, two steps further each time: 0, 2, 4, 6 mod 6 = 0."""
    found = windows(flow(), make_context, sampled, range(8), window=4, window_rounds=2, window_stride=2)
    assert [first for first, _ in found] == [0, 0, 2, 2, 4, 4, 0, 0]


def test_random_window_in_the_first_half(flow, make_context, sampled):
    """Flow-GRPO-Fast: of ten steps the first five, those down to 790; window 2: places 0 to 3."""
    found = windows(
        flow(),
        make_context,
        sampled,
        range(20),
        window=2,
        window_schedule="random",
        timestep_range=(790, 1000),
    )
    assert set(found) == {(0, 1), (1, 2), (2, 3), (3, 4)}


def test_random_window_goes_everywhere_but_to_the_last_step(flow, make_context, sampled):
    """Nine usable steps, window 4: six places."""
    found = windows(flow(), make_context, sampled, range(30), window=4, window_schedule="random")
    assert set(found) == {(first, first + 3) for first in range(6)}


def test_a_share_of_the_window_is_trained(flow, make_context, sampled):
    method = FlowGRPO(num_paths=2, window=4, trained_share=0.5)
    rows = collected(method, make_context(flow()))
    assert sampled[0].stochastic == [0, 1, 2, 3]
    assert len(rows.t.unique()) == 2


def test_a_window_costs_no_device_reads(flow, make_context, device_reads):
    context = make_context(flow(num_steps=25))
    method = FlowGRPO(num_paths=2, window=4, window_schedule="random", trained_share=0.5)
    with device_reads() as reads:
        collected(method, context)
    assert len(reads) == 1


def test_a_window_that_does_not_fit_is_refused(flow):
    message = r"window is 10; 9 stochastic steps start inside timestep_range \[10.0, 1000.0\]"
    with pytest.raises(UserError, match=message):
        FlowGRPO(window=10).check(flow(), None)
    FlowGRPO(window=9).check(flow(), None)
