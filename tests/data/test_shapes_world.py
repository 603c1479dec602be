"""Shapes world: the grammar, the held-out rule, the renderer and the judge."""

import numpy as np
import pytest

from lpobench.data.shapes import prompts
from lpobench.data.shapes.judge import AESTHETICS_WEIGHT, ALIGNMENT_WEIGHT, find, judge
from lpobench.data.shapes.render import Placed, draw, place, related, render, signed_distance
from lpobench.data.shapes.scene import RELATIONS, SHAPES, TASKS, Scene, Thing, parse, sample_scene


@pytest.fixture(scope="module")
def truth():
    """800 training scenes and their renders."""
    rng = np.random.default_rng(0)
    scenes = [sample_scene("train", rng) for _ in range(800)]
    return scenes, [draw(scene, rng) for scene in scenes]


def allows(scene: Scene, other: Scene) -> bool:
    """Could a picture of `scene` be right for `other` too ("a red star" shows "a star")?"""
    if len(scene.things) != len(other.things):
        return False
    pairs = list(zip(sorted(scene.things, key=str), sorted(other.things, key=str), strict=True))
    same_shapes = sorted(o.shape for o in scene.things) == sorted(o.shape for o in other.things)
    colors_fit = all(b.color is None or a.color in (None, b.color) for a, b in pairs)
    return same_shapes and colors_fit


def test_judge_agrees_with_ground_truth(truth):
    assert np.mean([judge(scene, image).correct for scene, image in zip(*truth, strict=True)]) >= 0.99


def test_judge_rejects_shuffled_prompts(truth):
    """Each picture against the next scene's prompt, where the two differ in what they show."""
    scenes, images = truth
    shifted = scenes[1:] + scenes[:1]
    wrong = [
        judge(other, image).correct
        for scene, other, image in zip(scenes, shifted, images, strict=True)
        if not allows(scene, other)
    ]
    assert len(wrong) > 760
    assert np.mean(wrong) <= 0.01


def test_every_prompt_parses_back():
    rng = np.random.default_rng(1)
    scenes = [
        sample_scene(split, rng, task) for split in ("train", "eval") for task in TASKS for _ in range(50)
    ]
    assert [parse(scene.text) for scene in scenes] == scenes


@pytest.mark.parametrize(
    "text", ["", "a", "a red", "a red cube", "two star", "a star over a circle", "a star and a", "A star"]
)
def test_other_texts_are_refused(text):
    with pytest.raises(ValueError, match="not a shapes-world prompt"):
        parse(text)


def test_splits_share_no_prompt_and_cover_the_six_tasks():
    train = {prompt.text for prompt in prompts("train", 5000, seed=0)}
    held_out = prompts("eval", 600, seed=0)
    assert not train & {prompt.text for prompt in held_out}
    assert [sum(prompt.tags["task"] == task for prompt in held_out) for task in TASKS] == [100] * 6
    assert len({prompt.id for prompt in held_out}) == 600


def test_held_out_is_about_one_in_five_and_ignores_the_telling():
    """Swapping "and" neighbours, or mirroring a relation, describes the same scene: same side of the split."""
    rng = np.random.default_rng(2)
    scenes = [sample_scene(split, rng, "position") for split in ("train", "eval") for _ in range(100)]
    mirror = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
    for scene in scenes:
        assert (
            Scene(scene.task, scene.things[::-1], relation=mirror[scene.relation]).held_out == scene.held_out
        )
    every = [
        Scene("color_attr", (Thing(a, x), Thing(b, y)))
        for a in SHAPES
        for b in SHAPES
        if a != b
        for x in ("red", "orange", "yellow", "green", "blue", "purple")
        for y in ("red", "blue")
        if x != y
    ]
    assert 0.1 < np.mean([scene.held_out for scene in every]) < 0.3


def test_a_known_picture_is_seen_as_drawn():
    """A red circle of radius 12 at (20, 40): found with that color, shape, centre and size."""
    image = render([Placed("circle", "red", 20, 40, 12)], np.random.default_rng(0))
    (seen,) = find(image)
    assert (seen.shape, seen.color) == ("circle", "red")
    assert seen.iou > 0.93
    np.testing.assert_allclose([seen.x, seen.y, seen.radius], [20, 40, 12], atol=0.7)


def test_relations_read_as_screen_coordinates():
    """y points down: (0, 0) is above and left of (30, 30) along no clear axis, above (5, 30), left of (30, 5)."""
    holds = lambda second: [name for name in RELATIONS if related((0, 0), second, name, margin=6, slope=1.2)]
    assert holds((5, 30)) == ["above"]
    assert holds((30, 5)) == ["left of"]
    assert holds((30, 30)) == []


def test_placed_things_keep_their_distance_and_relation():
    rng = np.random.default_rng(3)
    for _ in range(100):
        first, second = place(parse("a red star above a blue circle"), rng)
        assert second.y - first.y > 12
        assert np.hypot(first.x - second.x, first.y - second.y) > first.radius + second.radius


@pytest.mark.parametrize("shape", SHAPES)
def test_signed_distance_is_negative_inside_only(shape):
    x = np.array([0.0, 40.0])
    inside, outside = signed_distance(shape, x, np.zeros(2), 10.0)
    assert inside < 0 < outside


def test_preference_is_its_two_parts_and_empty_pictures_have_little_of_either():
    rng = np.random.default_rng(4)
    good = judge(parse("a red star"), draw(parse("a red star"), rng))
    assert good.preference == pytest.approx(
        ALIGNMENT_WEIGHT * good.alignment + AESTHETICS_WEIGHT * good.aesthetics
    )
    blank = judge(parse("a red star"), np.full((64, 64, 3), 0.5, np.float32))
    assert not blank.correct
    assert blank.alignment == 0
    assert blank.aesthetics == pytest.approx(0.25)  # a flat background is calm, and that is all


def test_each_demand_counts_by_itself():
    """Two blue squares where one red square is asked: half of the shapes, no color, no binding."""
    rng = np.random.default_rng(5)
    seen = judge(parse("a red square"), draw(parse("two blue squares"), rng))
    assert not seen.correct
    assert seen.alignment == pytest.approx((0 + 0.5 + 0 + 0) / 4)
    assert seen.words == pytest.approx((0.5 + 0) / 2)
