"""LRM training against LPO eq. 10-11 and the released loss."""

import math
import re
from types import SimpleNamespace

import pytest
import tiny_unet
import torch

from lpobench import registry
from lpobench.plugin import UserError
from rewards.fitting import Diverged, learning_rate, preference_loss
from rewards.labelled import training_pairs
from rewards.lrm import LRM, LRMTraining, read_config
from rewards.lrm.fit import training_run
from rewards.lrm.folder import load
from rewards.lrm.model import LatentRewardModel, TextFeatures
from rewards.lrm.pairwise import accuracy_by_timestep, pair_scores
from rewards.lrm.train import new_model, train_reward
from rewards.pair_scorer import draw_noise, grid
from rewards.train import main

CPU = torch.device("cpu")
QUICK = LRMTraining(
    steps=4,
    batch_size=4,
    learning_rate=3e-3,
    warmup=1,
    mpcf="none",
    validate_every=2,
    validation_pairs=8,
    half=False,
)


def loss(gap: float, label_0: float, weight: float = 1.0) -> float:
    score, label = torch.tensor([gap]), torch.tensor([label_0])
    return preference_loss(score, torch.zeros(1), label, torch.tensor([weight])).item()


def test_equal_scores_cost_log_2_and_a_tie_nothing():
    assert loss(0, 1) == pytest.approx(math.log(2))
    assert loss(0, 0) == pytest.approx(math.log(2))
    assert loss(0, 0.5) == pytest.approx(0, abs=1e-7)


def test_loss_of_a_gap():
    """Win-lose: -log sigmoid(2) = log(1 + e^-2). Tie: 0.5 log(1 + e^-2) + 0.5 log(1 + e^2) - log 2, which is
    log(1 + e^-2) + 1 - log 2 = log cosh 1."""
    assert loss(2, 1) == pytest.approx(math.log1p(math.exp(-2)), abs=1e-6)
    assert loss(-2, 0) == pytest.approx(math.log1p(math.exp(-2)), abs=1e-6)
    assert loss(2, 0.5) == pytest.approx(math.log(math.cosh(1)), abs=1e-6)
    assert loss(-2, 0.5) == pytest.approx(math.log(math.cosh(1)), abs=1e-6)


def test_losses_are_summed_with_their_weights():
    """Losses log 2 and 0 with weights 0.8 and 0.2."""
    zeros = torch.zeros(2)
    value = preference_loss(zeros, zeros, torch.tensor([1.0, 0.5]), torch.tensor([0.8, 0.2]))
    assert value.item() == pytest.approx(0.8 * math.log(2))


def test_weights_are_normalised_over_the_batch():
    """Untrained, all pairs win-lose, weights w and w / 4 by turns: the loss is that of w = 0.8, 0.2 for any w."""
    backbone, losses = tiny_unet.backbone(), []
    for scale in (1, 5):
        pairs = tiny_unet.pairs(2, num_example_per_prompt=[scale, 4 * scale])
        run = training_run(
            new_model(backbone, 7.5, 0), backbone.schedule, pairs, pairs, QUICK, 0, torch.float32
        )
        losses.append(run._gradients(torch.arange(2), torch.Generator().manual_seed(0)))
    assert losses[0] == pytest.approx(losses[1])


def test_learning_rate_rises_then_falls_to_zero():
    knobs = LRMTraining(steps=10, warmup=4)
    assert [learning_rate(knobs, step) for step in range(5)] == [0.25, 0.5, 0.75, 1, 1]
    assert learning_rate(knobs, 7) == pytest.approx(0.5)
    assert learning_rate(knobs, 10) == 0


class Oracle(torch.nn.Module):
    """Scores a latent by its mean, and remembers what it was shown."""

    def __init__(self):
        super().__init__()
        self.device = CPU
        self.prompts, self.latents, self.t = [], [], []

    def encode_prompts(self, prompts):
        self.prompts.append(prompts)
        return TextFeatures(*(torch.zeros(len(prompts), 2) for _ in range(3)))

    def forward(self, latents, t, text, null):
        assert len(text.context) == len(latents)
        self.latents.append(latents)
        self.t.append(t)
        return latents.mean((1, 2, 3))


def test_a_pair_shares_t_but_not_noise_and_prompts_are_encoded_once():
    backbone, oracle = tiny_unet.backbone(), Oracle()
    batch = tiny_unet.pairs(4).batch(torch.arange(4))
    t = torch.tensor([1.0, 101.0, 501.0, 951.0])
    pairs, generator = tiny_unet.pairs(4), torch.Generator().manual_seed(0)
    pair_scores(oracle, backbone.schedule, pairs.batch(torch.arange(4)), t, draw_noise(pairs, 4, generator))
    assert oracle.prompts == [["red", "blue", "a star", ""]]
    assert torch.equal(oracle.t[0], torch.cat([t, t]))
    alpha, sigma = (level.view(-1, 1, 1, 1) for level in backbone.schedule.levels(t))
    first, second = oracle.latents[0].chunk(2)
    noise_0, noise_1 = (first - alpha * batch.latents_0) / sigma, (second - alpha * batch.latents_1) / sigma
    assert (noise_0 - noise_1).abs().mean() > 0.5
    assert noise_0[3].std().item() == pytest.approx(1, abs=0.2)


def test_accuracy_counts():
    """8 pairs. By label, 2 are ties and pair 1's label is wrong: the oracle gets (5 + 2 * 0.5) / 8. The truth
    ranks the ties too but calls pair 0 equal: 7 of 7."""
    pairs = tiny_unet.pairs(8)
    pairs.table.loc[0, ["true_preference_0", "true_preference_1"]] = 0.5
    pairs.table.loc[1, ["label_0", "label_1"]] = pairs.table.loc[1, ["label_1", "label_0"]].to_numpy()
    table = accuracy_by_timestep(Oracle(), tiny_unet.backbone().schedule, pairs)
    assert table["t"].tolist() == [float(t) for t in range(951, 0, -50)]
    last = table.iloc[-1]
    assert (last.accuracy, last.accuracy_true, last.n, last.n_true) == (6 / 8, 1, 8, 7)


def test_accuracy_of_unknown_truth_is_nan():
    pairs = tiny_unet.pairs(4, true_preference_0=math.nan)
    table = accuracy_by_timestep(Oracle(), tiny_unet.backbone().schedule, pairs)
    assert table["accuracy_true"].isna().all()
    assert (table["n_true"] == 0).all()


def test_mpcf_filters_training_pairs():
    """The pairs' gaps are (0.1, 0.01, 0.01), below every tie limit and above every win-lose limit, except
    one negative clip gap."""
    source = tiny_unet.pairs(4, clipscore_gap=[0.01, -0.01, 0.01, 0.01])
    assert len(training_pairs([source], "none")) == 4
    assert len(training_pairs([source, tiny_unet.pairs(4)], "2")) == 3 + 4


def test_overfits_a_few_pairs():
    torch.manual_seed(0)
    backbone, pairs = tiny_unet.backbone(), tiny_unet.pairs(8)
    model, generator = LatentRewardModel.from_backbone(backbone, 7.5), torch.Generator().manual_seed(0)
    optimizer, batch = torch.optim.AdamW(model.parameters(), 3e-3), pairs.batch(torch.arange(8))
    losses = []
    for _ in range(30):
        t = grid(backbone.schedule)[torch.randint(10, 20, (8,), generator=generator)]
        scores = pair_scores(model, backbone.schedule, batch, t, draw_noise(pairs, 8, generator))
        losses.append(preference_loss(*scores, batch.label_0, batch.weight / 8))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[0] > 0.3
    assert sum(losses[-5:]) / 5 < 0.15


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_unet.pairs_folder(tmp_path_factory.mktemp("pairs"), 8)


def test_training_writes_a_usable_lrm(data, tmp_path):
    backbone = tiny_unet.backbone()
    settings = LRM(pairs=(str(data),), vfe_scale=3, training=QUICK)
    trained = settings.train(backbone, tmp_path, seed=0, device=CPU, dtype=torch.float32)
    assert trained == settings.model_copy(update={"weights": tmp_path})
    config = read_config(tmp_path)
    assert (config.vfe_scale, config.latent_space, config.feature_dim) == (
        3,
        tiny_unet.LATENT_SPACE,
        16 + 32 + 32,
    )
    assert {split: len(rows) for split, rows in config.accuracy.items()} == {
        "validation_unique": 20,
        "test_unique": 20,
    }
    assert config.training["steps"] == 4
    assert config.training["best_step"] in (2, 4)
    assert trained.load(backbone, CPU, torch.float32).score(tiny_unet.noisy(["red"])).isfinite().all()


def test_training_is_deterministic_in_its_seed():
    """Whatever state the global generator is in."""
    backbone, training = tiny_unet.backbone(), QUICK.model_copy(update={"steps": 2})
    pairs, held_out = tiny_unet.pairs(8), tiny_unet.pairs(4, "validation_unique")
    weights = []
    for global_seed, seed in ((0, 0), (1, 0), (2, 1)):
        torch.manual_seed(global_seed)
        model = new_model(backbone, 7.5, seed)
        run = training_run(model, backbone.schedule, pairs, held_out, training, seed, torch.float32)
        weights.append(run.fit(on_best=lambda: None).weights)
    first, again, other = weights
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["visual_projection.weight"], other["visual_projection.weight"])


def test_reported_accuracy_is_that_of_the_stored_weights(data, tmp_path):
    backbone, settings = (
        tiny_unet.backbone(),
        LRM(pairs=(str(data),), training=QUICK.model_copy(update={"half": True})),
    )
    tables = train_reward(settings, backbone, tmp_path, seed=0, device=CPU)
    again = accuracy_by_timestep(
        load(tmp_path).eval(), backbone.schedule, tiny_unet.pairs(8, "test_unique", 2)
    )
    assert again.equals(tables["test_unique"])


def test_patience_stops_early(data, tmp_path):
    """A learning rate of 1e-12 never beats the first validation: stops after it and two more, at step 3."""
    knobs = {
        "learning_rate": 1e-12,
        "validate_every": 1,
        "patience": 2,
        "steps": 50,
        "warmup": 0,
        "ema_decay": 0,
    }
    settings = LRM(pairs=(str(data),), training=QUICK.model_copy(update=knobs))
    train_reward(settings, tiny_unet.backbone(), tmp_path, seed=0, device=CPU)
    assert read_config(tmp_path).training["best_step"] == 1


def test_a_loss_that_is_not_finite_stops(data, tmp_path):
    settings = LRM(pairs=(str(data),), training=QUICK.model_copy(update={"learning_rate": 1e30}))
    with pytest.raises(Diverged, match="at step") as raised:
        train_reward(settings, tiny_unet.backbone(), tmp_path, seed=0, device=CPU)
    assert raised.value.exit_code == 4


def test_pairs_of_another_latent_space_are_refused(data, tmp_path):
    with pytest.raises(UserError, match="the backbone makes other"):
        train_reward(
            LRM(pairs=(str(data),)), tiny_unet.backbone(latent_space="other"), tmp_path, seed=0, device=CPU
        )


def test_command_line(data, tmp_path, monkeypatch, capsys):
    settings = SimpleNamespace(load=lambda device, dtype: tiny_unet.backbone())
    monkeypatch.setattr(registry, "get", lambda kind, name: lambda: settings)
    where = ["--pairs", str(data), "--out", str(tmp_path / "lrm")]
    main([*where, "--steps", "2", "--batch-size", "4", "--mpcf", "none", "--validation-pairs", "4"])
    out, err = capsys.readouterr()
    assert "validation_unique: mean accuracy" in out
    assert re.search(r"training the reward 2/2 \ds loss [\d.]+, validation accuracy [\d.]+ at step 2", err)
    assert "measuring the reward 20/20" in err
    assert read_config(tmp_path / "lrm").training["batch_size"] == 4
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "meta.json").write_bytes((data / "meta.json").read_bytes())
    with pytest.raises(SystemExit) as raised:
        main(["--pairs", str(tmp_path / "none"), "--out", str(tmp_path)])
    assert raised.value.code == 3
    assert "error: no preference pairs in" in capsys.readouterr().err
