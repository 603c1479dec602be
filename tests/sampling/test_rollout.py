from itertools import pairwise

import pytest
import torch

from lpobench.sampling import Noisy, VariancePreserving, forks, paths


@pytest.fixture
def roll(make_policy):
    """Forks of a short run, and the policy that made them."""

    def run(policy=None, k=4, prompts=("1", "-1"), seed=0, **options):
        policy = policy or make_policy()
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            return list(forks(policy, list(prompts), k, generator, **options)), policy

    return run


def test_one_fork_per_step_each_from_a_candidate_of_the_last(roll):
    steps, policy = roll()
    assert [fork.index for fork in steps] == list(range(20))
    assert [fork.t[0].item() for fork in steps] == list(policy.timesteps[:-1])
    assert steps[0].candidates.shape == (4, 2, 1, 4, 4)
    for fork, after in pairwise(steps):
        for row in range(2):
            assert any(torch.equal(after.latents[row], candidate) for candidate in fork.candidates[:, row])


def test_the_continuation_is_random_per_prompt(roll):
    """Over 19 steps and 4 candidates each of the four is followed, and not the same one for both prompts."""
    steps, _ = roll()
    followed = [
        [
            (fork.candidates[:, row] == after.latents[row]).flatten(1).all(1).nonzero().item()
            for row in range(2)
        ]
        for fork, after in pairwise(steps)
    ]
    assert {index for pair in followed for index in pair} == {0, 1, 2, 3}
    assert any(first != second for first, second in followed)


def test_forks_follow_their_generator(roll):
    same, again, other = (roll(seed=seed)[0][-1].candidates for seed in (0, 0, 1))
    assert torch.equal(same, again)
    assert not torch.equal(same, other)


def test_rollout_stops_after_the_last_wanted_step(roll, count_forwards, make_policy):
    policy = make_policy()
    forwards = count_forwards(policy)
    steps, _ = roll(policy, first=2, last=4)
    assert [fork.index for fork in steps] == [2, 3, 4]
    assert len(forwards) == policy.calls == 5


def test_steps_before_the_first_are_the_same_run(roll):
    """Plain steps draw one candidate instead of four; x_T is the same."""
    assert torch.equal(roll(first=0, last=0)[0][0].latents, roll(first=0, last=3)[0][0].latents)
    assert len(roll(first=19)[0]) == 1


@pytest.mark.parametrize(("score_at", "shift"), [("s", 1), ("t", 0)])
def test_candidates_are_scored_at_s_or_at_t(roll, score_at, shift):
    steps, policy = roll(score_at=score_at)
    for fork in steps:
        assert set(fork.noisy.t.tolist()) == {policy.timesteps[fork.index + shift]}
        assert torch.equal(fork.noisy.latents, fork.candidates.flatten(0, 1))
        assert fork.noisy.prompts == ["1", "-1"] * 4


def test_candidates_may_be_scored_as_if_they_were_clean(roll):
    """LPO's ablation: only the timestep is another, not the candidates."""
    steps, told = roll(score_at="s")[0], roll(score_at="0")[0]
    assert {t for fork in told for t in fork.noisy.t.tolist()} == {0}
    for one, other in zip(steps, told, strict=True):
        assert torch.equal(one.noisy.latents, other.noisy.latents)


def test_deterministic_steps_make_no_forks(roll, make_policy):
    """The last step of a flow has std 0: nothing to prefer there, and no forward pass is spent on it."""
    steps, policy = roll(make_policy("flow"))
    assert policy.stds[-1] == 0
    assert [fork.index for fork in steps] == list(range(19))
    assert policy.calls == 19
    steps, policy = roll(make_policy(eta=0.0))
    assert (steps, policy.calls) == ([], 0)


class Lingering(VariancePreserving):
    """A grid with a step from 501 to 501, which has std 0."""

    def timesteps(self, num_steps):
        return torch.tensor([951.0, 501.0, 501.0, 1.0, 0.0])


def test_a_deterministic_step_on_the_way_is_sampled(roll, make_policy):
    schedule = Lingering(VariancePreserving.scaled_linear().alphas_cumprod)
    steps, policy = roll(make_policy(schedule, num_steps=4))
    assert [fork.index for fork in steps] == [0, 2, 3]
    assert policy.calls == 4


def test_logprobs_are_of_the_candidates_as_stored(roll, make_policy):
    """float16 rounds candidates; the log density is that of the rounded ones."""
    for policy in (make_policy(), make_policy(dtype=torch.float16)):
        fork = roll(policy, last=0)[0][0]
        assert fork.candidates.dtype == policy.dtype
        for candidate, logprob in zip(fork.candidates, fork.logprobs, strict=True):
            assert torch.equal(fork.step.logprob(candidate.float()), logprob)


def test_ratio_is_exactly_one_before_the_first_update(roll):
    steps, policy = roll()
    for fork in steps:
        with torch.no_grad():
            again = policy.step(fork.latents, fork.t, fork.s, fork.prompts)
        assert torch.equal(again.logprob(fork.candidates[0]) - fork.logprobs[0], torch.zeros(2))


def test_a_pixel_reward_pays_for_the_next_step(make_policy):
    """20 steps: one call for x_T, then one per step on all candidates, reused by the next step."""
    policy = make_policy()
    with torch.no_grad():
        for fork in forks(policy, ["1", "-1"], 4, torch.Generator().manual_seed(0)):
            assert fork.noisy.images.shape == (8, 3, 4, 4)
            assert fork.noisy.images is fork.noisy.images
    assert (policy.calls, policy.rows) == (21, 2 + 20 * 8)


def test_the_loop_reads_nothing_from_the_device(make_policy, device_reads):
    """On a GPU every read is a stall; prompts are encoded and the grid is made before the first fork."""
    policy = make_policy("flow", guidance_scale=5.0)
    with torch.no_grad(), device_reads() as reads:
        assert len(list(forks(policy, ["1", "-1"], 4, torch.Generator().manual_seed(0), first=3))) == 16
        paths(policy, ["1", "-1"], torch.Generator().manual_seed(0), 2)
    assert reads == []


def test_reused_estimates_change_nothing(make_policy):
    """The same run with and without a reward that looks at estimates: the same candidates."""

    def run(look):
        kept, generator = [], torch.Generator().manual_seed(0)
        with torch.no_grad():
            for fork in forks(make_policy(), ["1", "-1"], 4, generator):
                _ = fork.noisy.estimate if look else None
                kept.append(fork.candidates)
        return torch.stack(kept)

    torch.testing.assert_close(run(True), run(False))


def test_estimates_made_at_t_are_not_reused(make_policy):
    policy = make_policy()
    with torch.no_grad():
        for fork in forks(policy, ["1"], 2, torch.Generator().manual_seed(0), score_at="t"):
            _ = fork.noisy.estimate
    assert policy.calls == 40


def test_noisy_is_lazy(make_policy):
    policy = make_policy()
    noisy = Noisy(torch.zeros(2, 1, 4, 4), torch.tensor([51.0, 51.0]), ["1", "2"], policy)
    assert policy.calls == 0
    assert noisy.estimate is noisy.estimate
    assert policy.calls == 1


# cps renews a fixed share of the noise per step, however short, so it needs a small eta to converge
PRESERVING = [("ddim", 0.0), ("ddim", 0.5), ("ddim", 1.0), ("cps", 0.2)]
RULES = [(kind, *rule) for kind in ("epsilon", "v_prediction", "flow") for rule in PRESERVING]
RULES += [("flow", "flow_sde", 0.4), ("flow", "dance_sde", 0.3)]


@pytest.mark.parametrize(("kind", "rule", "eta"), RULES)
def test_sampling_reaches_the_data(make_policy, kind, rule, eta):
    """The exact denoiser, 200 steps: samples are the data, N(1, 0.5^2) for prompt "1", whatever the rule.

    SD's path does not start at pure noise: at eta 0 that leaves the mean short by 0.5 * alpha_T = 0.034.
    """
    policy = make_policy(kind, num_steps=200, rule=rule, eta=eta)
    with torch.no_grad():
        end = paths(policy, ["1"], torch.Generator().manual_seed(0), 500).latents[-1]
    assert end.mean().item() == pytest.approx(1, abs=0.05)
    assert end.std().item() == pytest.approx(0.5, abs=0.02)


def test_paths_keep_every_step(make_policy):
    policy = make_policy("flow")
    with torch.no_grad():
        path = paths(policy, ["1", "-1"], torch.Generator().manual_seed(0), 3)
    assert path.latents.shape == (21, 3, 2, 1, 4, 4)
    assert path.logprobs.shape == (20, 3, 2)
    assert policy.calls == 20
    for index in (0, 7, 18):
        t, s = (torch.full((6,), path.timesteps[i]) for i in (index, index + 1))
        with torch.no_grad():
            step = policy.step(path.latents[index].flatten(0, 1), t, s, path.prompts * 3)
        again = step.logprob(path.latents[index + 1].flatten(0, 1))
        assert torch.equal(again, path.logprobs[index].flatten())


def test_deterministic_steps_of_a_path_are_sampled_without_likelihood(make_policy):
    path = paths(make_policy("flow", adapter=False), ["1"], torch.Generator().manual_seed(0), 2)
    assert path.stds[-1] == 0
    assert path.latents[-1].isfinite().all()
    assert (path.logprobs[-1] == 0).all()
    assert path.logprobs.isfinite().all()


def test_only_a_window_of_a_path_is_stochastic(make_policy):
    """Outside steps 3 to 5 a step is the plain one at eta 0; paths from one start part at step 3."""
    policy = make_policy()
    with torch.no_grad():
        path = paths(policy, ["1"], torch.Generator().manual_seed(0), 2, same_start=True, window=(3, 5))
        assert path.stochastic == [3, 4, 5]
        assert [torch.equal(*path.latents[i]) for i in range(6)] == [True] * 4 + [False] * 2
        t, s = (torch.full((2,), path.timesteps[i]) for i in (9, 10))
        plain = policy.step(path.latents[9].flatten(0, 1), t, s, ["1"] * 2, eta=0.0).mean
    assert torch.equal(path.latents[10].flatten(0, 1), plain)
    assert (path.logprobs[[0, 1, 2, 6, 19]] == 0).all()
    assert (path.logprobs[3:6] != 0).all()


def test_finished_latents_are_their_own_estimate(make_policy):
    policy = make_policy()
    with torch.no_grad():
        path = paths(policy, ["1"], torch.Generator().manual_seed(0), 2)
        images = path.noisy.images
    assert policy.calls == 20
    assert policy.decodes == 2
    assert torch.equal(images, policy.backbone.decode(path.latents[-1].flatten(0, 1)))
    assert path.noisy.t.tolist() == [0, 0]


def test_images_are_scored_as_they_are_or_noised(make_policy):
    """At t the latents are alpha * x0 + sigma * noise, from the generator's next numbers."""
    policy, images = make_policy(), torch.rand(2, 3, 4, 4)
    finished = Noisy.of_images(images, ["1", "-1"], policy)
    assert torch.equal(finished.images, images)
    assert torch.equal(finished.latents, policy.backbone.encode(images))
    noised = Noisy.of_images(images, ["1", "-1"], policy, 501.0, torch.Generator().manual_seed(5))
    noise = torch.randn(finished.latents.shape, generator=torch.Generator().manual_seed(5))
    alpha, sigma = (level[0] for level in policy.backbone.schedule.levels(torch.tensor([501.0])))
    torch.testing.assert_close(noised.latents, alpha * finished.latents + sigma * noise)
    assert noised.t.tolist() == [501, 501]
    assert not noised.clean


@pytest.mark.parametrize("count", [2, 3, 4])
def test_shards_of_a_round_are_the_round(make_policy, count):
    """Each shard rolls out its prompts on the noise they have in the whole, and leaves the generator as it would."""
    prompts = ["1", "-1", "0.5"]

    def roll(kind, shard):
        policy, generator = make_policy(), torch.Generator().manual_seed(0)
        policy.shard = shard
        with torch.no_grad():
            if kind == "paths":
                made = paths(policy, prompts, generator, 2)
                return made.latents.transpose(0, 2), made.prompts, generator
            steps = list(forks(policy, prompts, 4, generator, first=2, last=9))
        return torch.stack([step.candidates for step in steps]).transpose(0, 2), steps[0].prompts, generator

    for kind in ("forks", "paths"):
        whole, _, after = roll(kind, (0, 1))
        parts = [
            roll(kind, (index, count))
            for index in range(count)
            if 3 * index // count < 3 * (index + 1) // count
        ]
        assert torch.equal(torch.cat([part for part, _, _ in parts]), whole)
        assert [name for _, names, _ in parts for name in names] == prompts
        assert all(torch.equal(generator.get_state(), after.get_state()) for _, _, generator in parts)
