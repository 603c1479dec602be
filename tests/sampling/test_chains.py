from itertools import pairwise

import torch

from lpobench.sampling import chains, forks


def roll(policy, length, k=3, prompts=("1", "-1"), look=False, **options):
    """The chains of a run, with their estimates asked for or not."""
    generator, found = torch.Generator().manual_seed(0), []
    with torch.no_grad():
        for chain in chains(policy, list(prompts), k, generator, length=length, **options):
            _ = chain.noisy.estimate if look else None
            found.append(chain)
    return found


def test_chains_of_one_step_are_forks(make_policy):
    """The same random numbers, so the same candidates, bit for bit."""
    for kind in ("epsilon", "flow"):
        split = roll(make_policy(kind), 1, first=4)
        with torch.no_grad():
            steps = list(forks(make_policy(kind), ["1", "-1"], 3, torch.Generator().manual_seed(0), first=4))
        assert len(split) == len(steps)
        for chain, fork in zip(split, steps, strict=True):
            assert torch.equal(chain.latents[1], fork.candidates)
            assert torch.equal(chain.latents[0], fork.latents.expand(3, -1, -1, -1, -1))
            torch.testing.assert_close(chain.logprobs[0], fork.logprobs, rtol=0, atol=0)


def test_only_the_first_latents_are_common_and_ends_are_followed(make_policy):
    found = roll(make_policy(), 4, first=4)
    assert [chain.timesteps for chain in found] == [
        (751, 701, 651, 601, 551),
        (551, 501, 451, 401, 351),
        (351, 301, 251, 201, 151),
        (151, 101, 51, 1, 0),
    ]
    for chain in found:
        assert chain.latents.shape == (5, 3, 2, 1, 4, 4)
        assert torch.equal(chain.latents[0, 0], chain.latents[0, 1])
        assert not torch.equal(chain.latents[1, 0], chain.latents[1, 1])
    for chain, after in pairwise(found):
        for row in range(2):
            assert any(torch.equal(after.latents[0, 0, row], end) for end in chain.latents[-1, :, row])


def test_the_last_chain_may_be_shorter(make_policy):
    found = roll(make_policy(), 3, first=15, last=18)
    assert [len(chain.stds) for chain in found] == [3, 1]
    assert found[-1].timesteps == (51, 1)
    policy = make_policy("flow")
    found = roll(policy, 8)
    assert [len(chain.stds) for chain in found] == [8, 8, 3]
    assert policy.calls == 19


def test_ends_are_scored_at_their_own_time_or_one_step_noisier(make_policy):
    for score_at, times in (("s", [551, 351, 151, 0]), ("t", [601, 401, 201, 1]), ("0", [0] * 4)):
        found = roll(make_policy(), 4, first=4, score_at=score_at)
        assert [chain.noisy.t.unique().item() for chain in found] == times
        assert all(torch.equal(c.noisy.latents, c.latents[-1].flatten(0, 1)) for c in found)


def test_estimates_are_reused_and_change_nothing(make_policy):
    """4 plain steps and 16 of chains, whose first share a call; with estimates of the ends one call more."""
    policies = make_policy(), make_policy()
    plain, seen = (
        roll(policy, 4, first=4, look=look) for policy, look in zip(policies, (False, True), strict=True)
    )
    assert [policy.calls for policy in policies] == [20, 21]
    for one, other in zip(plain, seen, strict=True):
        torch.testing.assert_close(one.latents, other.latents)


def test_log_probabilities_are_those_of_the_steps(make_policy):
    policy = make_policy()
    chain = roll(policy, 4, first=8, last=11)[0]
    for index in range(4):
        t, s = (torch.full((6,), chain.timesteps[i]) for i in (index, index + 1))
        with torch.no_grad():
            step = policy.step(chain.latents[index].flatten(0, 1), t, s, chain.prompts * 3)
        again = step.logprob(chain.latents[index + 1].flatten(0, 1))
        torch.testing.assert_close(again, chain.logprobs[index].flatten(), rtol=0, atol=1e-6)


def test_nothing_is_read_from_the_device(make_policy, device_reads):
    with device_reads() as reads:
        assert len(roll(make_policy("flow", guidance_scale=5.0), 4)) == 5
    assert reads == []


def test_shards_together_are_the_whole(make_policy):
    prompts = ("1", "-1", "0.5", "2")
    whole = roll(make_policy(), 4, prompts=prompts, first=16)[0]
    for index in range(2):
        policy = make_policy()
        policy.shard = index, 2
        half = roll(policy, 4, prompts=prompts, first=16)[0]
        assert half.prompts == list(prompts)[2 * index : 2 * index + 2]
        torch.testing.assert_close(half.latents, whole.latents[:, :, 2 * index : 2 * index + 2])
