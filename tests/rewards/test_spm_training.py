"""SPM training (SPO sec. 3.2): what pairs look like to it, the bank, and a whole training."""

import math
from types import SimpleNamespace

import made_clip
import pytest
import tiny_unet
import torch
from lettered import Lettered

from lpobench import registry
from lpobench.plugin import UserError
from lpobench.sampling import Policy
from lpobench.sampling.schedule import VariancePreserving
from rewards import accuracy, fitting, pair_scorer
from rewards.spm import SPM, SPMTraining, read_config
from rewards.spm.estimates import Bank, Guided, estimate, pair_scores
from rewards.spm.folder import ClipPlaces, from_clip, load
from rewards.spm.train import describe, train_reward
from rewards.train import main

CPU = torch.device("cpu")
QUICK = SPMTraining(
    steps=4,
    batch_size=4,
    learning_rate=3e-3,
    warmup=1,
    bank=2,
    validate_every=2,
    validation_pairs=8,
    half=False,
)


@pytest.fixture
def policy():
    return Policy(Lettered(), Guided(5.0))


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return made_clip.folder(tmp_path_factory.mktemp("clip"))


@pytest.fixture
def model(clip):
    return from_clip(ClipPlaces.inside(clip), seed=0)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_unet.pairs_folder(tmp_path_factory.mktemp("pairs"), 8)


def settings(data, clip, **training) -> SPM:
    return SPM(pairs=(str(data),), clip=str(clip), training=QUICK.model_copy(update=training))


def test_an_estimate_is_one_guided_call_and_one_decode(policy):
    """ "red" has 3 letters, "" none: the guided output is 0 + 5 * 0.3 = 1.5, and x0 = (x_t - 1.5 sigma) / alpha,
    which is the clean latent with noise of (noise - 1.5) sigma / alpha.
    """
    generator = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn((2, *tiny_unet.LATENT_SHAPE), generator=generator) for _ in range(2))
    t = torch.tensor([1.0, 501.0])
    images = estimate(policy, clean, noise, t, ["red", "red"])
    alpha, sigma = (level.view(-1, 1, 1, 1) for level in policy.backbone.schedule.levels(t))
    expected = policy.backbone.decode(clean + (noise - 1.5) * sigma / alpha)
    torch.testing.assert_close(images, expected, atol=1e-5, rtol=1e-5)
    assert (policy.calls, policy.rows, policy.decodes) == (1, 4, 2)
    assert not images.requires_grad


def test_a_pair_shares_t_and_noise(model, policy):
    """Equal images score equally, whatever the noise; the loss of such pairs is log 2, ties apart."""
    batch = tiny_unet.pairs(4).batch(torch.arange(4))
    batch = type(batch)(batch.latents_0, batch.latents_0, batch.label_0, batch.weight, batch.prompts)
    noise = torch.randn((1, 4, *tiny_unet.LATENT_SHAPE), generator=torch.Generator().manual_seed(0))
    t = torch.tensor([1.0, 101.0, 501.0, 951.0])
    first, second = pair_scores(model, policy, batch, t, noise)
    assert torch.equal(first, second)
    loss = fitting.preference_loss(first, second, batch.label_0, batch.weight / 4)
    assert loss.item() == pytest.approx(0.75 * math.log(2), abs=1e-6)  # one pair in four is a tie


def bank_of(model, policy, pairs, draws: int = 3) -> Bank:
    timesteps = torch.arange(1000.0)
    return Bank.make(model, policy, pairs, timesteps, draws=draws, seed=0, dtype=torch.float32)


def test_a_bank_holds_estimates_of_every_image_once_a_draw(model, policy):
    """8 pairs of 16 images under 3 prompts: 3 draws are 48 decodes. In a draw a prompt has one t and one noise."""
    pairs = tiny_unet.pairs(8)
    bank = bank_of(model, policy, pairs)
    assert (policy.decodes, bank.images.shape, bank.t.shape) == (48, (3, 16, 3, 16, 16), (3, 3))
    assert bank.t.unique().numel() == 9
    constant = pairs.latents[:, 0, 0, 0].float()
    shown = bank.images[1][bank.image_of].float() / 255
    noise = shown.logit(1e-3) - constant[pairs.image_index][..., None, None, None]
    same = [row for row in range(8) if pairs.table["caption"].iloc[row] == "red"]
    inside = [
        value for row in same for value in noise[:, row].abs().flatten().tolist() if math.isfinite(value)
    ]
    assert inside
    first, second = noise[0, same[0]], noise[1, same[0]]
    both = (shown[:, same[0]] > 0.05).all(0) & (shown[:, same[0]] < 0.95).all(0)
    assert both.any()
    torch.testing.assert_close(first[both], second[both], atol=0.1, rtol=0)


def test_a_look_through_the_bank_is_the_networks_score_of_it(model, policy):
    pairs, rows = tiny_unet.pairs(8), torch.tensor([5, 2, 7])
    bank = bank_of(model, policy, pairs)
    found = torch.stack(bank(pairs, rows, slice(0, 3), torch.Generator().manual_seed(4)))
    draw = torch.randint(3, (3,), generator=torch.Generator().manual_seed(4))
    for column, (row, which) in enumerate(zip(rows.tolist(), draw.tolist(), strict=True)):
        prompt = pairs.table["caption"].iloc[row]
        images = bank.images[which, bank.image_of[:, row]] / 255
        t = bank.t[which, bank.prompt_of[row]].expand(2)
        expected = model(images, t, model.encode_prompts([prompt, prompt]))
        torch.testing.assert_close(found[:, column], expected, atol=1e-4, rtol=1e-4)
    part = bank(pairs, rows, slice(1, 3), torch.Generator().manual_seed(4))
    torch.testing.assert_close(torch.stack(part), found[:, 1:], atol=1e-4, rtol=1e-4)
    assert len(bank(pairs, rows, slice(3, 3), torch.Generator().manual_seed(4))[0]) == 0


def test_a_bank_that_is_too_large_is_refused(model, policy):
    with pytest.raises(
        UserError, match=r"training\.bank would hold .* GiB of images; lower it, or set it to 0"
    ):
        bank_of(model, policy, tiny_unet.pairs(8), draws=2_000_000)


def test_training_moves_every_parameter_and_leaves_its_sources(data, clip, tmp_path):
    before = {path: path.read_bytes() for path in clip.iterdir()}
    start, made = from_clip(ClipPlaces.inside(clip), 0).state_dict(), Lettered()
    trained = settings(data, clip, bank=0, ema_decay=0.0).train(
        made, tmp_path, seed=0, device=CPU, dtype=torch.float32
    )
    weights = load(tmp_path).state_dict()
    assert [name for name, value in weights.items() if torch.equal(value, start[name])] == []
    assert {path: path.read_bytes() for path in clip.iterdir()} == before
    assert made.denoiser.tenth.item() == pytest.approx(0.1)
    config = trained.config
    assert (config.backbone, config.is_flow, config.training["clip"]) == ("letters", False, str(clip))
    assert {split: len(rows) for split, rows in trained.measured().items()} == {
        "validation_unique": 20,
        "test_unique": 20,
    }
    noisy = tiny_unet.noisy(["red"])
    noisy.images, noisy.clean = torch.rand(1, 3, 16, 16), False
    assert trained.load(made, CPU, torch.float32).score(noisy).isfinite().all()


def test_training_learns(data, clip, tmp_path):
    """Winners are +1, losers -1: after 30 steps, at t = 1, at most one of 8 pairs is told wrongly."""
    learning = settings(data, clip, steps=30, validate_every=15, warmup=5)
    tables = train_reward(learning, Lettered(), tmp_path, seed=0, device=CPU)
    assert tables["test_unique"]["accuracy_true"].iloc[-1] >= 7 / 8
    assert read_config(tmp_path).training["best_step"] in (15, 30)


@pytest.mark.parametrize(("scale", "expected"), [(None, 1 / 0.07), (4.0, 4.0)])
def test_the_scale_starts_where_it_is_told_to(data, clip, tmp_path, scale, expected):
    """The CLIP's, untrained, is 1 / 0.07."""
    slow = settings(data, clip, steps=1, learning_rate=1e-6, scale=scale)
    train_reward(slow, Lettered(), tmp_path, seed=0, device=CPU)
    assert load(tmp_path).clip.logit_scale.exp().item() == pytest.approx(expected, rel=1e-3)


def test_training_is_deterministic_in_its_seed(data, clip, tmp_path):
    files = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        quick = settings(data, clip, steps=2)
        train_reward(quick, Lettered(), tmp_path / name, seed=seed, device=CPU)
        files.append((tmp_path / name / "model.safetensors").read_bytes())
    assert files[0] == files[1] != files[2]


def test_the_reported_accuracy_is_that_of_the_stored_weights(data, clip, tmp_path):
    tables = train_reward(settings(data, clip, half=True), Lettered(), tmp_path, seed=0, device=CPU)
    model, policy = load(tmp_path), Policy(Lettered(), Guided(5.0))
    scorer = pair_scorer.PairScorer(model, lambda *given: pair_scores(model, policy, *given), num_noises=1)
    pairs = tiny_unet.pairs(8, "test_unique", 2)
    again = accuracy.accuracy_by_timestep(scorer, pair_scorer.grid(policy.backbone.schedule), pairs)
    assert again.equals(tables["test_unique"])


def test_another_noise_schedule_is_refused():
    other = Lettered()
    other.schedule = VariancePreserving.scaled_linear(beta_end=0.02)
    with pytest.raises(UserError, match="backbone letters has another"):
        describe(SPM(), other, seed=0)


def test_pairs_of_another_latent_space_are_refused(data, clip, tmp_path):
    other = Lettered()
    other.latent_space = "other"
    with pytest.raises(UserError, match="the backbone makes other"):
        train_reward(settings(data, clip), other, tmp_path, seed=0, device=CPU)


def test_command_line(data, clip, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        registry, "get", lambda kind, name: lambda: SimpleNamespace(load=lambda *_: Lettered())
    )
    where = ["--reward", "spm", "--clip", str(clip), "--pairs", str(data), "--out", str(tmp_path / "spm")]
    main([*where, "--steps", "2", "--batch-size", "4", "--bank", "1", "--validation-pairs", "4"])
    assert "test_unique: mean accuracy" in capsys.readouterr().out
    assert read_config(tmp_path / "spm").training["bank"] == 1
    with pytest.raises(SystemExit) as raised:
        main([*where, "--bank", "1", "--posterior", "sample"])
    assert raised.value.code == 2
    assert "for posterior sample it should be 0" in capsys.readouterr().err
