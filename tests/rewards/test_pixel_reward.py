"""`pixel`: an evaluator's score of decoded images as a reward."""

import numpy as np
import pytest
import torch
from made import Meter
from made_judges import Far
from pydantic import ValidationError

from evaluators.pixels import Pixels
from lpobench.data.shapes import sample_scenes
from lpobench.data.shapes.render import draw
from lpobench.plugin import UserError
from lpobench.sampling import Noisy
from lpobench.slots import make
from lpobench.types import RewardModel
from rewards.pixel import Pixel

CPU = torch.device("cpu")
LIGHT = Pixel(evaluator=Meter(), metric="light")


def live(settings, policy):
    return settings.load(policy.backbone, CPU, torch.float32)


def test_a_finished_image_scores_what_its_8_bit_picture_does(make_policy):
    """Latents 0 and ln 3 decode to 1/2 and 3/4: 128/255 (127.5 is rounded to even) and 191/255, times 2."""
    policy = make_policy(adapter=False)
    latents = torch.stack([torch.zeros(1, 4, 4), torch.full((1, 4, 4), float(np.log(3)))])
    reward = live(LIGHT.model_copy(update={"scale": 2.0}), policy)
    scores = reward.score(Noisy.finished(latents, ["1", "2"], policy))
    torch.testing.assert_close(scores, torch.tensor([2 * 128 / 255, 2 * 191 / 255]))
    assert isinstance(reward, RewardModel)
    assert (reward.latent_space, reward.differentiable) == (None, False)
    assert (policy.calls, policy.decodes) == (0, 2)


def test_a_noisy_row_is_scored_by_its_x0_estimate(make_policy):
    policy = make_policy(adapter=False)
    noisy = Noisy(torch.randn(3, 1, 4, 4), torch.tensor([951.0, 501, 1]), ["0", "1", "-1"], policy)
    scores = live(LIGHT, policy).score(noisy)
    expected = policy.backbone.decode(noisy.estimate[0]).mean((1, 2, 3))
    torch.testing.assert_close(scores, expected, atol=0.5 / 255, rtol=0)
    assert (policy.calls, policy.decodes) == (1, 3)


def test_where_less_is_better_the_sign_turns(make_policy):
    policy = make_policy(adapter=False)
    noisy = Noisy.finished(torch.zeros(1, 1, 4, 4), ["1"], policy)
    assert live(Pixel(evaluator=Far()), policy).score(noisy).item() == pytest.approx(128 / 255 - 1)


def test_a_row_without_finite_pixels_has_no_score_and_spoils_no_other(make_policy):
    policy = make_policy(adapter=False)
    latents = torch.zeros(3, 1, 4, 4)
    latents[1, 0, 2, 2] = torch.nan
    scores = live(Pixel(evaluator=Far()), policy).score(Noisy.finished(latents, ["1", "2", "3"], policy))
    assert scores.isnan().tolist() == [False, True, False]


def test_bare_texts_are_enough_for_the_judge_of_shapes_world(make_policy):
    scenes = sample_scenes("eval", 6, np.random.default_rng(0))
    drawn = [torch.tensor(draw(scene, np.random.default_rng(1))).permute(2, 0, 1).float() for scene in scenes]
    noisy = Noisy.finished(
        torch.zeros(12, 1, 4, 4), [scene.text for scene in scenes] * 2, make_policy(adapter=False)
    )
    noisy.images = torch.cat([torch.stack(drawn), torch.zeros(6, 3, 64, 64)])
    scores = live(Pixel(metric="correct"), noisy.policy).score(noisy)
    assert scores.tolist() == [1.0] * 6 + [0.0] * 6


def test_rows_do_not_depend_on_their_company(make_policy):
    policy, latents = make_policy(adapter=False), torch.randn(4, 1, 4, 4)
    reward, prompts = live(LIGHT, policy), ["1", "2", "3", "4"]
    together = reward.score(Noisy.finished(latents, prompts, policy))
    apart = [reward.score(Noisy.finished(latents[i : i + 1], prompts[i : i + 1], policy)) for i in range(4)]
    assert torch.equal(together, torch.cat(apart))


def test_the_usual_metric_is_preference_or_the_only_one():
    assert Pixel().chosen == "preference"
    assert Pixel(evaluator=Far()).chosen == "distance"
    with pytest.raises(
        ValidationError, match=r"several scores, choose one as metric; known: brightness, contrast"
    ):
        Pixel(evaluator=Pixels())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"metric": "corect"}, 'evaluator shapes has no metric "corect"; did you mean "correct"?'),
        (
            {"evaluator": {"name": "shpes"}},
            'evaluator.name: unknown evaluator "shpes"; did you mean "shapes"?',
        ),
        ({"evaluator": {"size": 3}}, "evaluator.size is not a setting of shapes"),
        ({"scale": 0}, "scale: should be > 0.0, got 0"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_loaded(values, message):
    with pytest.raises(UserError) as error:
        make("reward", {"name": "rewards.pixel:Pixel", **values})
    assert message in str(error.value)


def test_settings_survive_json():
    settings = Pixel(evaluator="pixels", metric="contrast", scale=3)
    assert settings.model_dump(mode="json")["evaluator"] == {"name": "pixels"}
    assert Pixel.model_validate_json(settings.model_dump_json()) == settings
