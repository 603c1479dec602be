"""Diffusion-DPO, and how it and its relatives noise pairs, on a Gaussian whose errors are worked out by hand.

At alpha = sigma = sqrt(0.5) and a scale of 0.5, the denoiser's error per element is 0.8 (x0 - mu - shift) - 0.2 eps:
it estimates eps as sigma (x_t - alpha (mu + shift)) / (alpha^2 / 4 + sigma^2), and 0.5 / 0.625 is 0.8.
"""

import math

import pytest
import torch
from diffusers import AutoencoderKL
from pydantic import ValidationError

from backbones.tiny import SHIPPED
from lpobench.data.pairs import LatentPairs
from lpobench.data.shipped import shipped
from lpobench.learning import NoisedPairs, denoising_errors, denoising_gain, dpo_loss, pair_errors
from lpobench.sampling import VariancePreserving
from lpobench.sections import TrainSettings
from methods.diffusion_dpo import DiffusionDPO
from methods.mapo import MaPO
from methods.seppo import SePPO
from methods.sft import SFT

HALF = VariancePreserving(torch.tensor([0.5]), steps_offset=0, set_alpha_to_one=True)
PLAIN = {"caption_dropout": 0.0}


def by_hand(winner=1.0, loser=0.5, noise=1.0) -> NoisedPairs:
    """One pair of constant latents around mu = 0."""
    shape = (1, 1, 4, 4)
    return NoisedPairs(
        torch.full(shape, winner), torch.full(shape, loser), torch.full(shape, noise), torch.zeros(1), ["0"]
    )


def collected(method, context):
    with torch.no_grad():
        return method.collect(context)


def tensors(rows):
    return {name: value for name, value in vars(rows).items() if isinstance(value, torch.Tensor)}


@pytest.mark.parametrize(("winner_change", "expected"), [(0.0, math.log(2)), (-1e-3, 0.0789)])
def test_vectors_of_the_sheet(winner_change, expected):
    """beta/2 times 1e-3 is 2.5, and log(1 + e^-2.5) is 0.0789."""
    reference = torch.tensor([0.15])
    winner = denoising_gain(reference + winner_change, reference)
    loss = dpo_loss(winner, denoising_gain(reference, reference), beta=5000.0)
    assert loss.item() == pytest.approx(expected, abs=5e-5)


def test_loss_by_hand(make_policy, make_context):
    """Shift 0.25: the winner's error goes from (0.8 - 0.2)^2 = 0.36 to 0.16, the loser's from 0.04 to 0. The
    winner gains 0.1, the loser 0.02; at beta 10, the loss is log(1 + e^-0.8)."""
    policy = make_policy(HALF, num_steps=1)
    policy.trained[0].data.fill_(0.25)
    loss, logs = DiffusionDPO(beta=10.0).loss(make_context(policy), by_hand())
    assert loss.item() == pytest.approx(math.log1p(math.exp(-0.8)), abs=1e-6)
    expected = {"accuracy": 1, "margin": 0.8, "policy_error": 0.08, "reference_error": 0.2}
    assert {name: logs[name].item() for name in expected} == pytest.approx(expected, abs=1e-6)


def test_gradient_of_the_released_two_pass_loss(make_policy, make_context):
    """Four separate passes, errors in float64."""
    policy, method = make_policy(dtype=torch.float64), DiffusionDPO(beta=50.0)
    rows = collected(method, make_context(policy))
    policy.trained[0].data.fill_(0.1)

    def error(x0):
        return denoising_errors(policy, x0, rows.noise, rows.t, rows.prompts)

    with policy.reference():
        before = error(rows.winner) - error(rows.loser)
    inside = -method.beta / 2 * (error(rows.winner) - error(rows.loser) - before)
    four = -torch.nn.functional.logsigmoid(inside).mean()
    two = method.loss(make_context(policy), rows)[0]
    assert two.item() == pytest.approx(four.item(), rel=1e-6)
    gradients = [torch.autograd.grad(loss, policy.trained)[0] for loss in (two, four)]
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-9)


def test_one_pass_of_both_for_policy_and_reference(make_policy, make_context, count_forwards):
    policy = make_policy()
    rows = collected(DiffusionDPO(), make_context(policy))
    forwards = count_forwards(policy)
    DiffusionDPO().loss(make_context(policy), rows)
    assert forwards == [8, 8]
    assert DiffusionDPO().denoiser_calls(policy) == (0, 2)


def test_errors_of_other_predictions_are_those_of_eps_over_alpha_squared(make_policy, make_context, schedule):
    policy = make_policy(schedule)
    rows = collected(DiffusionDPO(timestep_range=(100, 900)), make_context(policy))
    policy.trained[0].data.fill_(0.3)
    errors = pair_errors(policy, rows)[0]
    alpha, sigma = (level.view(-1, 1, 1, 1) for level in policy.backbone.schedule.levels(rows.t))
    eps = policy.denoise(alpha * rows.winner + sigma * rows.noise, rows.t, rows.prompts)[1]
    of_eps = (eps - rows.noise).square().mean((1, 2, 3))
    expected = of_eps if schedule.prediction == "epsilon" else of_eps / alpha.flatten() ** 2
    torch.testing.assert_close(errors, expected, rtol=1e-4, atol=1e-5)


def test_errors_of_a_half_precision_reference_are_float32(make_policy, make_context):
    """As exact as float64 makes them of the same bfloat16 outputs; rounded to bfloat16 they would be 4e-3 off."""
    policy = make_policy(dtype=torch.bfloat16)
    rows = collected(DiffusionDPO(), make_context(policy))
    alpha, sigma = (level.view(-1, 1, 1, 1) for level in policy.backbone.schedule.levels(rows.t))
    with policy.reference():
        errors = pair_errors(policy, rows)[0]
        output = policy.predict(alpha * rows.winner + sigma * rows.noise, rows.t, rows.prompts)
    exact = (output.double() - rows.noise.double()).square().mean((1, 2, 3))
    assert errors.dtype == torch.float32
    torch.testing.assert_close(errors.double(), exact, rtol=1e-6, atol=0)


@pytest.mark.parametrize(("rule", "rate"), [("train", 3e-5), ("paper", 8.192e-9), ("released", 2.048e-5)])
def test_learning_rate_rules(rule, rate):
    """At 2048 pairs per update and beta 5000: 2000/5000 * 2.048e-8, and 2048 * 1e-8."""
    train = TrainSettings(minibatch=16, gradient_accumulation=128, learning_rate=3e-5)
    assert DiffusionDPO(learning_rate_rule=rule).learning_rate(train) == pytest.approx(rate)


@pytest.mark.parametrize("method", [DiffusionDPO(mirror=0.5), MaPO(), SFT(), SePPO()])
@pytest.mark.parametrize("num_shards", [2, 3])
def test_shards_give_the_rows_of_one_process(make_policy, make_context, method, num_shards):
    policy = make_policy()
    whole = collected(method, make_context(policy, num_prompts=8))
    parts = []
    for index in range(num_shards):
        policy.shard = index, num_shards
        parts.append(collected(method, make_context(policy, num_prompts=8)))
    merged = type(whole).merge(parts)
    assert merged.prompts == whole.prompts
    for name, value in tensors(whole).items():
        torch.testing.assert_close(tensors(merged)[name], value, rtol=1e-6, atol=1e-6)
    assert torch.equal(merged.noise, whole.noise)
    assert torch.equal(merged.t, whole.t)


def test_a_round_reads_nothing_back_from_the_device(make_policy, make_context, device_reads):
    context = make_context(make_policy())
    with device_reads() as reads:
        rows = collected(DiffusionDPO(mirror=0.5), context)
        DiffusionDPO().loss(context, rows)
    assert reads == []


def test_noise_is_standard_and_timesteps_are_uniform(make_policy, make_context):
    """400 pairs. A mean of 400 uniform numbers in 100..899 deviates by 231 / 20 = 12, so by under 50."""
    rows = collected(DiffusionDPO(timestep_range=(100, 899)), make_context(make_policy(), num_prompts=400))
    assert rows.t.min() >= 100
    assert rows.t.max() <= 899
    assert rows.t.mean().item() == pytest.approx(499.5, abs=50)
    assert torch.equal(rows.t, rows.t.round())
    assert rows.noise.mean().item() == pytest.approx(0, abs=0.05)
    assert rows.noise.std().item() == pytest.approx(1, abs=0.05)
    assert len(rows.noise.flatten(1).unique(dim=0)) == 400


@pytest.mark.parametrize("t", [0, 999])
def test_ends_of_the_range_are_inside(make_policy, make_context, t):
    rows = collected(DiffusionDPO(timestep_range=(t, t)), make_context(make_policy()))
    assert rows.t.tolist() == [t] * 4


def test_timesteps_as_in_the_backbones_training(make_policy, make_context):
    """SD3's are logit-normal and shifted by 3: their median is 3 * 0.5 / (1 + 2 * 0.5) = 0.75."""
    rows = collected(DiffusionDPO(timesteps="training"), make_context(make_policy("flow"), num_prompts=400))
    assert rows.t.median().item() == pytest.approx(750, abs=50)


def test_captions_drop_out(make_policy, make_context):
    """A fifth of 400 deviates by 8, so by under 40; the other captions stay where they were."""
    context = make_context(make_policy(), num_prompts=400)
    captions = collected(DiffusionDPO(), context).prompts
    assert captions.count("") == pytest.approx(80, abs=40)
    kept = [(new, old) for new, old in zip(captions, context.next_pairs().prompts, strict=True) if new]
    assert all(new == old for new, old in kept)
    assert "" not in collected(DiffusionDPO(**PLAIN), context).prompts


@pytest.mark.parametrize("mirror", [0.0, 1.0, 0.5])
def test_both_of_a_pair_are_mirrored_or_neither(make_policy, make_context, mirror):
    context = make_context(make_policy(), num_prompts=40)
    pairs, rows = context.next_pairs(), collected(DiffusionDPO(mirror=mirror), context)
    flipped = [
        (new == old.flip(-1)).flatten(1).all(1)
        for new, old in ((rows.winner, pairs.winner), (rows.loser, pairs.loser))
    ]
    same = (rows.winner == pairs.winner).flatten(1).all(1)
    assert torch.equal(*flipped)
    assert torch.equal(flipped[0], ~same)
    assert flipped[0].float().mean().item() == pytest.approx(mirror, abs=0.25)


def test_augmentation_changes_neither_noise_nor_timesteps(make_policy, make_context):
    plain, mirrored = (
        collected(DiffusionDPO(mirror=mirror), make_context(make_policy())) for mirror in (0.0, 1.0)
    )
    assert torch.equal(plain.noise, mirrored.noise)
    assert torch.equal(plain.t, mirrored.t)


def test_a_mirrored_latent_is_only_roughly_the_mirrored_images():
    """The shipped VAE on 16 of the shipped latents: decoding a mirrored latent misses the mirrored image by 0.4 of
    its contrast, six times what encoding and decoding costs. Hence no mirroring by default."""
    vae = AutoencoderKL.from_pretrained(SHIPPED / "tiny-sd15" / "vae").eval()
    pairs = LatentPairs.read(shipped("shapes-pairs"))
    latents = pairs.latents[:: len(pairs.latents) // 16][:16].float() / vae.config.scaling_factor
    with torch.no_grad():
        images = vae.decode(latents).sample.clamp(-1, 1)
        mirrored = vae.decode(latents.flip(-1)).sample.clamp(-1, 1)
        again = vae.decode(vae.encode(images).latent_dist.mean).sample.clamp(-1, 1)

    def miss(x, y):
        return ((x - y).square().mean().sqrt() / images.std()).item()

    assert miss(again, images) < 0.1
    assert 0.25 < miss(mirrored, images.flip(-1)) < 0.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"timestep_range": (900, 100)}, r"timestep_range is \[900, 100\]; the smaller timestep comes first"),
        ({"timestep_range": (0, 1000)}, "less than or equal to 999"),
        ({"timesteps": "training", "timestep_range": (0, 500)}, "it needs timesteps uniform"),
        ({"mirror": 1.5}, "less than or equal to 1"),
        ({"caption_dropout": -0.1}, "greater than or equal to 0"),
        ({"learning_rate_rule": "paer"}, "'train', 'paper' or 'released'"),
        ({"beta": 0}, "greater than 0"),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        DiffusionDPO(**changes)
