from itertools import pairwise

import pytest
import torch

from lpobench.plugin import UserError
from lpobench.sampling import paths, steps_inside, stochastic_steps, visits


def seen(policy, steps, prompts=("1", "-1"), seed=0):
    with torch.no_grad():
        return list(visits(policy, list(prompts), torch.Generator().manual_seed(seed), steps))


def test_visits_are_where_the_rollout_passes(make_policy):
    """With the noise it goes on with: each x_t is the last one's step with the last one's noise."""
    policy = make_policy()
    found = seen(policy, range(20))
    assert [visit.t[0].item() for visit in found] == list(policy.timesteps[:-1])
    assert [visit.s[0].item() for visit in found] == list(policy.timesteps[1:])
    for visit, after in pairwise(found):
        with torch.no_grad():
            step = policy.step(visit.latents, visit.t, visit.s, visit.prompts)
        assert torch.equal(step.mean + step.std * visit.noise, after.latents)


def test_it_is_the_path_of_the_same_random_numbers(make_policy):
    with torch.no_grad():
        path = paths(make_policy(), ["1", "-1"], torch.Generator().manual_seed(0), 1)
    for index, visit in zip((3, 11), seen(make_policy(), (11, 3)), strict=True):
        assert torch.equal(visit.latents, path.latents[index, 0])


@pytest.mark.parametrize("last", [0, 1, 12])
def test_no_denoiser_call_beyond_the_last_visit(make_policy, count_forwards, last):
    policy = make_policy()
    forwards = count_forwards(policy)
    assert len(seen(policy, {0, last})) == len({0, last})
    assert len(forwards) == policy.calls == last


def test_a_deterministic_step_on_the_way_takes_no_noise(make_policy):
    policy = make_policy(eta=0.0)
    first, after = seen(policy, (0, 1))
    with torch.no_grad():
        assert torch.equal(policy.step(first.latents, first.t, first.s, first.prompts).mean, after.latents)


def test_shards_together_are_the_whole(make_policy):
    prompts = ("1", "-1", "0.5", "2", "0")
    whole = seen(make_policy(), (0, 5), prompts)
    for index, part in ((0, slice(0, 2)), (1, slice(2, 5))):
        policy = make_policy()
        policy.shard = index, 2
        for half, both in zip(seen(policy, (0, 5), prompts), whole, strict=True):
            assert half.prompts == both.prompts[part]
            torch.testing.assert_close(half.latents, both.latents[part])
            assert torch.equal(half.noise, both.noise[part])


def test_nothing_is_read_from_the_device(make_policy, device_reads):
    with device_reads() as reads:
        seen(make_policy("flow", guidance_scale=5.0), (2, 18))
    assert reads == []


def test_stochastic_steps_are_those_in_the_range_with_noise(make_policy):
    assert stochastic_steps(make_policy(), (0.0, 101.0)) == [17, 18, 19]
    assert stochastic_steps(make_policy("flow"), (0.0, 1000.0)) == list(range(19))
    assert steps_inside((900.0, 500.0, 100.0, 0.0), (0.5, 0.0, 0.1), (100.0, 900.0)) == [0, 2]


def test_a_range_without_steps_is_refused(make_policy):
    with pytest.raises(UserError, match=r"timestep_range \[2.0, 50.0\] holds no stochastic .* at 951, 901"):
        stochastic_steps(make_policy(), (2.0, 50.0))
    with pytest.raises(UserError, match=r"every ddim step at eta 0\.0 is deterministic"):
        stochastic_steps(make_policy(eta=0.0), (0.0, 1000.0))
