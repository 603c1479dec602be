import pytest
import torch
from made import register_toys, toy_spec
from painted import generate
from pydantic import ValidationError

from lpobench import sampling
from lpobench.plugin import UserError
from lpobench.run import execute
from lpobench.spec import EvalSettings
from lpobench.types import Prompt
from methods.best_of_n import BestOfN

PROMPTS = [Prompt("0.5", "a"), Prompt("-1", "b"), Prompt("0.5", "c"), Prompt("2", "d"), Prompt("0", "e")]


def sampled(method, policy, reward, num=4, seed=0, num_steps=20):
    """Finished latents of `num` prompts "0", each image with a generator of its own."""
    generators = [torch.Generator().manual_seed(1000 * seed + row) for row in range(num)]
    latents = torch.stack([torch.randn(1, 4, 4, generator=generator) for generator in generators])
    timesteps = policy.backbone.schedule.timesteps(num_steps)
    with torch.no_grad():
        return method.sample(policy, reward, latents, ["0"] * num, timesteps, generators)


class Scores:
    """A latent reward made of a function of the candidate's number, by the prompts' number."""

    latent_space = None
    differentiable = False

    def __init__(self, score, num=4):
        self.score_of, self.num = score, num

    def score(self, noisy):
        return torch.tensor([float(self.score_of(row // self.num)) for row in range(len(noisy.prompts))])


def test_it_trains_nothing_and_needs_a_reward():
    assert not BestOfN().trains
    assert BestOfN().samples
    assert BestOfN().needs == {"reward"}


@pytest.mark.parametrize("select", ["step", "image"])
def test_more_candidates_score_higher(make_policy, latent_reward, select):
    """Mean of the finished latents, over 64 images."""
    means = [
        sampled(
            BestOfN(num_candidates=n, select=select), make_policy(adapter=False), latent_reward, num=64
        ).mean()
        for n in (1, 2, 4, 8)
    ]
    assert means == sorted(means)
    assert means[-1] > means[0] + 0.1
    assert abs(means[0]) < 0.1


def test_choosing_at_every_step_beats_choosing_an_image(make_policy, latent_reward):
    by_step, by_image = (
        sampled(BestOfN(select=select), make_policy(adapter=False), latent_reward, num=64).mean()
        for select in ("step", "image")
    )
    assert by_step > by_image + 0.1


@pytest.mark.parametrize("select", ["step", "image"])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_an_image_is_the_same_in_any_batch_and_company(make_policy, latent_reward, select, batch_size):
    method = BestOfN(select=select)

    def images(prompts, batch_size):
        settings = EvalSettings(num_steps=6, guidance_scale=1.0, images_per_prompt=2, batch_size=batch_size)
        sampler = lambda policy, *rest: method.sample(policy, latent_reward, *rest)
        batches = generate(make_policy(adapter=False), prompts, settings, reference=False, sampler=sampler)
        return {
            (prompt.id, index): image
            for batch in batches
            for prompt, index, image in zip(batch.prompts, batch.indices, batch.images, strict=True)
        }

    whole, parts = images(PROMPTS, 10), images(PROMPTS[::-1], batch_size)
    assert len(whole) == 10
    for key, image in parts.items():
        torch.testing.assert_close(image, whole[key], rtol=0, atol=1e-6)


def test_one_image_to_choose_from_is_plain_sampling(make_policy, latent_reward):
    policy = make_policy(adapter=False)
    found = sampled(BestOfN(num_candidates=1, select="image"), policy, latent_reward)
    start = torch.stack(
        [torch.randn(1, 4, 4, generator=torch.Generator().manual_seed(row)) for row in range(4)]
    )
    plain = sampling.at_eta_0(policy, start, ["0"] * 4, policy.grid)
    assert torch.equal(found, plain)


def test_one_candidate_per_step_is_ddim_with_noise(make_policy, latent_reward):
    """Row 0 alone: each step adds std times the next numbers of the image's generator, at the method's own eta."""
    policy = make_policy(adapter=False, eta=0.3)
    found = sampled(BestOfN(num_candidates=1, eta=0.7), policy, latent_reward)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, 1, 4, 4, generator=generator)
    for t, s in zip(policy.grid[:-1], policy.grid[1:], strict=True):
        step = policy.step(latents, t[None], s[None], ["0"], eta=0.7)
        latents = step.mean + step.std * torch.randn(1, 1, 4, 4, generator=generator)
    torch.testing.assert_close(found[:1], latents, rtol=0, atol=1e-6)


def test_a_latent_reward_costs_no_call_and_a_pixel_reward_one(
    make_policy, latent_reward, pixel_reward, count_forwards
):
    policy = make_policy(adapter=False)
    forwards = count_forwards(policy)
    sampled(BestOfN(), policy, latent_reward)
    assert forwards == [4] * 20
    forwards.clear()
    sampled(BestOfN(), policy, pixel_reward)
    assert forwards == [4] + [16] * 20
    assert policy.decodes == 20 * 16
    forwards.clear()
    sampled(BestOfN(select="image"), policy, pixel_reward)
    assert forwards == [16] * 20


def test_reused_estimates_are_those_of_the_chosen(make_policy):
    """Scored at t nothing is reused; this reward asks for the estimate and does not care which t it is told."""

    class Latent:
        latent_space, differentiable = None, False

        def score(self, noisy):
            _ = noisy.estimate
            return noisy.latents.mean((1, 2, 3))

    policies = make_policy(adapter=False), make_policy(adapter=False)
    reused, anew = (
        sampled(BestOfN(score_at=at), policy, Latent()) for at, policy in zip("st", policies, strict=True)
    )
    assert [policy.calls for policy in policies] == [21, 40]
    torch.testing.assert_close(reused, anew, rtol=0, atol=1e-5)


def test_outside_the_range_steps_are_plain(make_policy, latent_reward):
    policy = make_policy(adapter=False)
    sampled(BestOfN(timestep_range=(300, 500)), policy, latent_reward)
    assert [times[0].item() for times in latent_reward.times] == [401, 351, 301, 251]
    assert policy.calls == 20
    generous = sampled(BestOfN(num_candidates=1, timestep_range=(1, 1)), policy, latent_reward)
    start = torch.stack(
        [torch.randn(1, 4, 4, generator=torch.Generator().manual_seed(row)) for row in range(4)]
    )
    plain = sampling.at_eta_0(policy, start, ["0"] * 4, policy.grid[:-1])
    last = policy.step(plain, *(t.expand(4) for t in policy.grid[-2:]), ["0"] * 4, eta=1.0)
    assert ((generous - last.mean).abs() < 5 * last.std).all()


def test_a_flows_last_step_has_no_choice(make_policy, latent_reward):
    policy = make_policy("flow", adapter=False)
    sampled(BestOfN(), policy, latent_reward)
    assert (len(latent_reward.times), policy.calls) == (19, 20)


def test_a_range_without_steps_is_refused(make_policy, latent_reward):
    with pytest.raises(UserError, match=r"timestep_range .* holds no stochastic sampling step"):
        sampled(BestOfN(timestep_range=(2, 50)), make_policy(), latent_reward)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("select", ["step", "image"])
def test_a_score_that_is_not_finite_never_wins(make_policy, select, bad, capsys):
    """Candidate 2 wins, as if candidate 0 were worse than it."""
    method, spoilt = BestOfN(select=select), Scores(lambda k: [bad, 0, 1, 0][k])
    other = sampled(method, make_policy(), Scores(lambda k: [0.5, 0, 1, 0][k]))
    assert torch.equal(sampled(method, make_policy(), spoilt), other)
    assert capsys.readouterr().err == ""


def test_of_scores_none_of_which_is_finite_the_first_is_kept_and_that_is_said(make_policy, capsys):
    lost = sampled(BestOfN(), make_policy(), Scores(lambda k: torch.nan))
    assert "80 times all 4 scores were nan or inf; the first was kept" in capsys.readouterr().err
    assert torch.equal(lost, sampled(BestOfN(), make_policy(), Scores(lambda k: -k)))


def test_nothing_is_read_from_the_device_on_the_way(make_policy, latent_reward, device_reads):
    counts = []
    for num_steps in (5, 20):
        with device_reads() as reads:
            sampled(BestOfN(), make_policy(adapter=False), latent_reward, num_steps=num_steps)
        counts.append(len(reads))
    assert counts[0] == counts[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_candidates": 0}, "greater than 0"),
        ({"eta": 0.0}, "greater than 0"),
        ({"eta": 1.5}, "less than or equal to 1"),
        ({"select": "both"}, "'step' or 'image'"),
        ({"timestep_range": (9, 1)}, "the smaller timestep comes first"),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        BestOfN(**changes)


def test_a_run_compares_it_with_plain_sampling_and_reports_its_cost(tmp_path, monkeypatch):
    """6 images in batches of 4, 4 steps each: as many calls and rows as the base, and a score above it."""
    register_toys(monkeypatch)
    record = execute(toy_spec(tmp_path, method={"name": "methods.best_of_n:BestOfN"}), tmp_path / "out")
    assert (record.trained, record.sampled, record.training) == (False, True, None)
    cost = record.costs["generate methods.best_of_n:BestOfN"]
    assert (cost.calls, cost.rows, cost.decodes) == (8, 24, 6)
    light = record.metrics["light"]
    assert light.mean_method > light.mean_base + 0.02
    assert light.low > 0
