"""DiNa-LRM training: what a pair shares, what is learnt, and what is written."""

from functools import partial

import made_dina
import made_pipelines
import pandas as pd
import pytest
import torch
from made_dina import CPU, QUICK

from lpobench.data.pairs import LatentPairs
from lpobench.sampling import Noisy, RectifiedFlow
from rewards.accuracy import accuracy_by_timestep
from rewards.dina import DiNa, read_config
from rewards.dina.folder import load
from rewards.dina.losses import comparison_std, pair_loss
from rewards.dina.pairwise import PairScores, uniform_timesteps
from rewards.dina.text import Prompts
from rewards.dina.train import describe, new_model, train_reward
from rewards.fitting import FreshLook, RewardTraining
from rewards.pair_scorer import PairScorer, draw_noise, grid

FLOAT = torch.float32


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return made_dina.around(made_pipelines.sd35(tmp_path_factory.mktemp("sd35")))


@pytest.fixture(scope="module")
def data(backbone, tmp_path_factory):
    """All three splits, in a folder."""
    splits = ("train", "validation_unique", "test_unique")
    made = [made_dina.pairs(8, backbone, split, seed) for seed, split in enumerate(splits)]
    table = pd.concat([part.table for part in made], ignore_index=True)
    latents, uids = torch.cat([part.latents for part in made]), [uid for part in made for uid in part.uids]
    folder = tmp_path_factory.mktemp("pairs")
    LatentPairs(table, latents, uids, made[0].meta).write(folder)
    return folder


class Oracle(torch.nn.Module):
    """Scores latents by their mean, and remembers what it was shown."""

    def __init__(self):
        super().__init__()
        self.device, self.shown = CPU, []

    def trainable(self):
        return {}

    def forward(self, latents, sigma, context, pooled):
        self.shown.append((latents, sigma, context))
        return latents[0].mean((1, 2, 3))


def scorer_of(model, backbone, loss="thurstone", at_once=64) -> PairScorer:
    return PairScorer(model, PairScores(model, Prompts(backbone), loss, at_once), num_noises=1)


def test_levels_are_uniform_on_the_shifted_grid():
    """sigma in 10 equal bins: 100 each, but for the grid's own resolution; all are levels of the grid."""
    t = uniform_timesteps(RectifiedFlow(shift=3.0))
    counts = torch.histc(t / 1000, bins=10, min=0, max=1)
    assert counts.sum() == 1000
    assert (counts - 100).abs().max() <= 2
    s = t.double() / 1000
    index = 1000 * s / (3 - 2 * s)  # the shift undone: whole thousandths
    torch.testing.assert_close(index, index.round(), atol=1e-3, rtol=0)


def test_a_pair_shares_noise_and_level_and_one_forward(backbone):
    oracle, pairs = Oracle(), made_dina.pairs(4, backbone)
    t = torch.tensor([100.0, 400.0, 700.0, 1000.0])
    batch, noise = pairs.batch(torch.arange(4)), draw_noise(pairs, 4, torch.Generator().manual_seed(0), 1)
    first, second = scorer_of(oracle, backbone).score(batch, t, noise)
    ((latents, sigma, context),) = oracle.shown
    assert latents.shape == (1, 8, 16, 8, 8)
    assert torch.equal(sigma[0], torch.cat([t, t]) / 1000)
    assert torch.equal(context[:4], context[4:])
    level = (t / 1000).view(-1, 1, 1, 1)
    for shown, clean in zip(latents[0].chunk(2), (batch.latents_0, batch.latents_1), strict=True):
        torch.testing.assert_close(shown, (1 - level) * clean + level * noise[0])
    std = comparison_std("thurstone", t / 1000)
    torch.testing.assert_close(
        first - second, (1 - t / 1000) * (batch.latents_0 - batch.latents_1).mean((1, 2, 3)) / std
    )


def test_many_pairs_are_scored_in_parts(backbone):
    oracle, pairs = Oracle(), made_dina.pairs(5, backbone)
    batch, noise = pairs.batch(torch.arange(5)), draw_noise(pairs, 5, torch.Generator().manual_seed(0), 1)
    whole, parts = (
        scorer_of(oracle, backbone, at_once=n).score(batch, torch.full((5,), 300.0), noise) for n in (5, 2)
    )
    assert [len(latents[0]) for latents, *_ in oracle.shown] == [10, 4, 4, 2]
    assert all(torch.equal(*both) for both in zip(whole, parts, strict=True))


def test_processes_draw_different_noise_and_levels_for_their_parts(backbone):
    """The released code seeds all of them alike. Two parts are the halves of what one process would see."""
    pairs, rows, seen = made_dina.pairs(6, backbone), torch.arange(6), []
    for mine in (slice(0, 6), slice(0, 3), slice(3, 6)):
        oracle = Oracle()
        look = FreshLook(scorer_of(oracle, backbone), uniform_timesteps(backbone.schedule), "mean", FLOAT)
        look(pairs, rows, mine, torch.Generator().manual_seed(0))
        ((latents, sigma, _),) = oracle.shown
        seen.append((latents[0].chunk(2)[0], sigma[0].chunk(2)[0]))
    whole, *halves = seen
    for found, expected in zip(zip(*halves, strict=True), whole, strict=True):
        torch.testing.assert_close(torch.cat(found), expected)
    assert whole[1].unique().numel() == 6


def test_untrained_it_is_drawn_from_the_seed_and_its_adapter_is_a_no_op(backbone):
    config = describe(DiNa(training=QUICK), backbone, seed=0)
    weights = []
    for state, seed in ((0, 0), (1, 0), (2, 1)):
        torch.manual_seed(state)
        weights.append(new_model(config, backbone, seed).trainable())
    first, again, other = weights
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not torch.equal(first["head.query_tokens"], other["head.query_tokens"])
    ups = [value for name, value in first.items() if "lora_B" in name]
    assert len(ups) == 20
    assert not any(value.any() for value in ups)
    assert {value.dtype for value in first.values()} == {torch.float32}


def run_of(backbone, model, pairs, training) -> RewardTraining:
    scorer = scorer_of(model, backbone, training.loss)
    look = FreshLook(scorer, uniform_timesteps(backbone.schedule), "mean", FLOAT)
    loss = partial(pair_loss, training.loss)
    return RewardTraining(scorer, look, pairs, pairs, grid(backbone.schedule), training, 0, loss=loss)


@pytest.mark.parametrize("kind", ["thurstone", "bt"])
def test_training_lowers_the_loss_and_moves_every_parameter(backbone, kind):
    """On 8 pairs whose winner is plain, in 15 steps, against the same levels and noise before and after."""
    pairs = made_dina.pairs(8, backbone)
    changes = {"steps": 15, "batch_size": 8, "validate_every": 15, "ema_decay": 0, "loss": kind}
    training = QUICK.model_copy(update=changes)
    model = new_model(describe(DiNa(training=training), backbone, seed=0), backbone, seed=0)
    base = {name: value.clone() for name, value in backbone.denoiser.state_dict().items()}
    before = {name: value.detach().clone() for name, value in model.trainable().items()}
    run = run_of(backbone, model, pairs, training)
    losses = [measured(run)]
    run.fit(on_best=lambda: None)
    losses.append(measured(run))
    assert losses[1] < 0.8 * losses[0], losses
    assert not [name for name, value in model.trainable().items() if torch.equal(value, before[name])]
    assert all(torch.equal(value, base[name]) for name, value in backbone.denoiser.state_dict().items())


def measured(run: RewardTraining) -> float:
    """The loss of all pairs, with noise that is always the same."""
    loss = run._gradients(torch.arange(8), torch.Generator().manual_seed(7))
    run.scorer.model.zero_grad()
    return loss


def test_the_untrained_loss_is_near_that_of_equal_scores(backbone):
    """1 - sqrt(0.5) = 0.2929 for a decided pair, 0 for a tie, of which there are 2 in 8."""
    training = QUICK.model_copy(update={"batch_size": 8})
    model = new_model(describe(DiNa(training=training), backbone, seed=0), backbone, seed=0)
    torch.nn.init.zeros_(model.head.head.weight)
    loss = measured(run_of(backbone, model, made_dina.pairs(8, backbone), training))
    assert loss == pytest.approx(0.75 * (1 - 0.5**0.5), abs=1e-5)


def test_training_writes_a_folder_that_scores(backbone, data, tmp_path):
    settings = DiNa(pairs=(str(data),), training=QUICK.model_copy(update={"half": True, "rank": 3}))
    trained = settings.train(backbone, tmp_path, seed=0, device=CPU, dtype=FLOAT)
    assert trained == settings.model_copy(update={"weights": tmp_path})
    config = read_config(tmp_path)
    assert (config.backbone, config.rank, config.alpha, config.layers) == ("sd35", 3, 6, 2)
    assert config.training["best_step"] in (2, 4)
    assert {split: len(rows) for split, rows in trained.measured().items()} == {
        "validation_unique": 20,
        "test_unique": 20,
    }
    assert set(trained.measured()["test_unique"][0]) == {"t", "accuracy", "accuracy_true", "n", "n_true"}
    reward = trained.load(backbone, CPU, FLOAT)
    policy = made_dina.policy(made_dina.around_again(backbone), adapter=False)
    scores = reward.score(Noisy.finished(made_dina.latents(backbone, 2), ["a", "b"], policy))
    assert scores.isfinite().all()


def test_reported_accuracy_is_that_of_the_stored_weights(backbone, data, tmp_path):
    settings = DiNa(pairs=(str(data),), training=QUICK.model_copy(update={"half": True}))
    tables = train_reward(settings, backbone, tmp_path, seed=0, device=CPU)
    model = load(tmp_path, backbone, shared=True).eval()
    part = LatentPairs.read(data).split("test_unique")
    again = accuracy_by_timestep(scorer_of(model, backbone), grid(backbone.schedule), part)
    assert again.equals(tables["test_unique"])


def test_a_logistic_is_trained_along(backbone):
    training = QUICK.model_copy(update={"logistic": True, "ema_decay": 0})
    model = new_model(describe(DiNa(training=training), backbone, seed=0), backbone, seed=0)
    run_of(backbone, model, made_dina.pairs(8, backbone), training).fit(on_best=lambda: None)
    assert model.logistic.eta4.item() != pytest.approx(0.15, abs=1e-6)


def test_bfloat16_trains_in_float32(backbone, data, tmp_path):
    """Autocast on a bfloat16 transformer: what is trained, and its gradients, are float32."""
    half = made_dina.around_again(backbone)
    half.transformer = made_dina.transformer().bfloat16()
    training = QUICK.model_copy(update={"batch_size": 8})
    model = new_model(describe(DiNa(training=training), half, seed=0), half, seed=0)
    run = run_of(half, model, made_dina.pairs(8, half), training)
    run.look = FreshLook(run.scorer, uniform_timesteps(half.schedule), "mean", torch.bfloat16)
    assert run._gradients(torch.arange(8), torch.Generator().manual_seed(0)) == pytest.approx(0.22, abs=0.05)
    assert model.trunk.dtype == torch.bfloat16
    assert {value.grad.dtype for value in model.trainable().values()} == {FLOAT}
    assert all(value.grad.isfinite().all() for value in model.trainable().values())


def test_the_data_decides_whether_a_training_is_reused(data):
    assert DiNa(pairs=(str(data),)).training_data() == {"pairs 0": data}
