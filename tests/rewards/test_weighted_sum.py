"""`sum`: several rewards as one."""

import pytest
import torch
from made import Brighter, Meter, Untrainable
from made_judges import Constant, Spoilt, judges  # noqa: F401
from pydantic import ValidationError

from lpobench.cli.show import settings_of
from lpobench.plugin import UserError
from lpobench.sampling import Noisy
from lpobench.slots import DEFAULTS, make
from lpobench.types import RewardModel
from rewards.lrm import LRM
from rewards.pixel import Pixel
from rewards.weighted_sum import Part, WeightedSum

CPU = torch.device("cpu")
PIXEL = Pixel(evaluator=Meter(), metric="light")


def summed(*parts: Part) -> WeightedSum:
    return WeightedSum(parts=parts)


def live(settings, policy):
    return settings.load(policy.backbone, CPU, torch.float32)


def test_by_hand(make_policy):
    """2 * (3 - 1) / 0.5 - (5 - 0) / 4 = 8 - 1.25."""
    policy = make_policy(adapter=False)
    settings = summed(
        Part(reward=Constant(value=3), weight=2, mean=1, std=0.5),
        Part(reward=Constant(value=5), weight=-1, std=4),
    )
    reward = live(settings, policy)
    assert isinstance(reward, RewardModel)
    scores = reward.score(Noisy.finished(torch.zeros(3, 1, 4, 4), ["1", "2", "3"], policy))
    assert scores.tolist() == [6.75] * 3


def test_one_part_of_weight_1_is_that_reward(make_policy):
    policy = make_policy(adapter=False)
    noisy = Noisy.finished(torch.randn(3, 1, 4, 4), ["1", "2", "3"], policy)
    assert torch.equal(live(summed(Part(reward=Brighter())), policy).score(noisy), Brighter().score(noisy))


def test_parts_share_one_estimate_and_its_images(make_policy):
    policy = make_policy(adapter=False)
    noisy = Noisy(torch.randn(4, 1, 4, 4), torch.full((4,), 501.0), ["0"] * 4, policy)
    live(summed(Part(reward=PIXEL), Part(reward=PIXEL, weight=3), Part(reward=Brighter())), policy).score(
        noisy
    )
    assert (policy.calls, policy.decodes) == (1, 4)


def test_gradients_pass_where_all_parts_let_them(make_policy):
    policy = make_policy(adapter=False)
    reward = live(summed(Part(reward=Brighter(), std=2.0), Part(reward=Brighter(), weight=0.5)), policy)
    latents = torch.zeros(1, 1, 4, 4, requires_grad=True)
    reward.score(Noisy.finished(latents, ["1"], policy)).sum().backward()
    assert reward.differentiable
    torch.testing.assert_close(latents.grad, torch.full_like(latents, 8 / 16 * (1 / 2 + 0.5)))
    mixed = live(summed(Part(reward=Brighter()), Part(reward=PIXEL)), policy)
    assert not mixed.differentiable
    assert not mixed.score(Noisy.finished(latents, ["1"], policy)).requires_grad, "half a gradient is none"


def test_a_row_that_one_part_cannot_score_has_no_score(make_policy):
    policy = make_policy(adapter=False)
    reward = live(summed(Part(reward=Brighter()), Part(reward=Spoilt())), policy)
    scores = reward.score(Noisy.finished(torch.zeros(2, 1, 4, 4), ["13", "1"], policy))
    assert scores.isnan().tolist() == [True, False]


def test_it_reads_what_its_parts_read():
    assert summed(Part(reward=PIXEL)).latent_space is None
    assert summed(Part(reward=PIXEL), Part(reward=Constant(space="a"))).latent_space == "a"
    with pytest.raises(ValidationError, match=r"part 0 \(made_judges:Constant\) reads a, part 1 .* reads b"):
        summed(Part(reward=Constant(space="a")), Part(reward=Constant(space="b")))


def test_it_is_trained_on_what_its_parts_are_made_of():
    both = summed(Part(reward=PIXEL), Part(reward=Brighter()), Part(reward=Pixel(metric="correct")))
    assert {metric for _, metric in both.reads()} == {"light", "correct"}
    assert ("shapes", "correct") in both.reads()
    assert Brighter().reads() == frozenset()


def test_only_parts_with_a_training_are_trained(tmp_path, make_policy):
    settings = summed(Part(reward=PIXEL), Part(reward=Brighter(), weight=2))
    backbone = make_policy(adapter=False).backbone
    trained = settings.train(backbone, tmp_path, seed=7, device=CPU, dtype=torch.float32)
    assert (tmp_path / "part-1" / "trained").read_text() == "7"
    assert [path.name for path in tmp_path.iterdir()] == ["part-1"]
    assert trained.parts == (settings.parts[0], Part(reward=Brighter(sign=-1), weight=2))
    nothing = summed(Part(reward=PIXEL), Part(reward=Untrainable()))
    with pytest.raises(UserError, match="no part of the sum has a training"):
        nothing.train(backbone, tmp_path, seed=0, device=CPU, dtype=torch.float32)


def test_files_training_data_and_measurements_are_those_of_the_parts():
    lrm, settings = LRM(), summed(Part(reward=LRM()), Part(reward=PIXEL))
    assert list(settings.assets().values()) == list(lrm.assets().values())
    assert settings.training_data() == {"pairs 0 of part 0 (lrm)": lrm.training_data()["pairs 0"]}
    assert settings.measured()["part 0 (lrm): test_unique"] == lrm.measured()["test_unique"]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([], "parts: should be a list of at least 1"),
        ([{"reward": "lrn"}], 'parts.0.reward.name: unknown reward "lrn"; did you mean "lrm"?'),
        (
            [{"reward": "lrm"}, {"reward": {"name": "lrm", "vfe": 2}}],
            "parts.1.reward.vfe is not a setting of lrm",
        ),
        ([{"reward": "lrm", "std": 0}], "parts.0.std: should be > 0.0, got 0"),
        ([{"weight": 2}], "parts.0.reward: is required"),
    ],
)
def test_what_is_wrong_is_said(parts, message):
    with pytest.raises(UserError) as error:
        make("reward", {"name": "rewards.weighted_sum:WeightedSum", "parts": parts})
    assert message in str(error.value)


def test_settings_are_shown_with_plugins_by_name(judges, monkeypatch):  # noqa: F811
    monkeypatch.setitem(DEFAULTS, "evaluators", "far")
    rows = {row["name"]: row for cls in (Pixel, WeightedSum) for row in settings_of(cls)}
    assert (rows["evaluator"]["default"], rows["evaluator"]["type"]) == ('"far"', "evaluator")
    assert rows["scale"]["type"] == "number > 0"
    assert rows["parts"]["default"].startswith('[{"reward": "brighter", "weight": 1.0, "mean": 0.0')
    assert rows["parts"]["type"] == "list of Part"


def test_settings_survive_json():
    settings = summed(Part(reward=LRM(vfe_scale=2)), Part(reward=PIXEL, weight=0.5, mean=1, std=2))
    assert WeightedSum.model_validate_json(settings.model_dump_json()) == settings
