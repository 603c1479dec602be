"""Galleries show the pictures that were scored, and say which they do not show."""

import base64
import io

import numpy as np
import pytest
from made_gallery import HOSTILE, SCORES, keep_base, many, png, run
from PIL import Image

from lpobench.records.compare import comparisons
from lpobench.report.columns import of_comparison, of_evaluations
from lpobench.report.gallery import COLUMNS, galleries
from lpobench.report.gallery import encode as encoded

ROOM = 10_000_000


def pixels(address: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))))


def gallery(*records, room=ROOM):
    (comparison,) = comparisons(records)
    (subject,) = of_comparison(comparison)
    return galleries([subject], room)[0]


@pytest.fixture
def shown(tmp_path):
    keep_base(tmp_path)
    return gallery(run(tmp_path), run(tmp_path, seed=1), run(tmp_path, "sft"))


def test_a_column_per_method_and_a_row_per_prompt(shown):
    assert [source.label for source in shown.columns] == ["base", "lpo", "sft"]
    assert shown.columns[1].note == "record tiny-sd15-lpo-s0-0123abcd, seed 0 of 0, 1"
    assert shown.has_base
    assert [(row.prompt, row.task) for row in shown.rows] == [
        ("a red circle", "colors"),
        ("two stars", "counting"),  # tasks take turns
        (HOSTILE, "colors"),
    ]
    assert shown.left_out == ()


def test_the_pictures_are_the_first_seeds_and_the_scores_are_theirs(shown):
    first = shown.rows[0]
    for tile, seed in zip(first.tiles, (0, 100, 100), strict=True):
        np.testing.assert_array_equal(
            pixels(tile.picture.address), np.asarray(Image.open(io.BytesIO(png(seed))))
        )
    assert list(shown.metrics.items()) == [("correct", True), ("light", False)]
    values = [SCORES[variant][0] for variant in ("none", "lpo", "sft")]
    assert [tile.scores for tile in first.tiles] == [(value, 2 * value) for value in values]


def test_small_pictures_keep_every_pixel():
    small = encoded(png(3, 128))
    assert (small.width, small.height) == (128, 128)
    np.testing.assert_array_equal(pixels(small.address), np.asarray(Image.open(io.BytesIO(png(3, 128)))))


def test_large_pictures_are_reduced():
    file = io.BytesIO()
    Image.new("RGB", (1024, 512), "red").save(file, "PNG")
    large = encoded(file.getvalue())
    assert (large.width, large.height) == (384, 192)
    assert large.address.startswith("data:image/webp;base64,")
    np.testing.assert_allclose(pixels(large.address)[96, 192], [255, 0, 0], atol=8)


def test_what_is_no_picture_is_none():
    assert encoded(b"text") is None
    assert encoded(png(1)[:60]) is None


def test_a_changed_picture_is_not_shown(tmp_path):
    keep_base(tmp_path)
    record = run(tmp_path)
    (record.folder / "evaluation" / "images" / "p0-0.png").write_bytes(png(9))
    tiles = gallery(record).rows[0].tiles
    assert tiles[0].picture is not None
    assert tiles[1].picture is None
    assert tiles[1].scores == (0.6, 1.2)


def test_columns_whose_pictures_are_gone_are_named(tmp_path):
    record = run(tmp_path)
    shown = gallery(record)
    assert [source.label for source in shown.columns] == ["lpo"]
    assert not shown.has_base
    assert shown.left_out == ("pictures are gone of base",)
    (record.folder / "evaluation" / "manifest" / "a.jsonl").unlink()
    (record.folder / "evaluation" / "manifest").rmdir()
    assert (gallery(record).rows, gallery(record).left_out) == ((), ("pictures are gone of base, lpo",))


def test_several_runs_of_one_method_are_told_apart(tmp_path):
    keep_base(tmp_path)
    spec = {"method": {"name": "lpo", "beta": 200.0}, "eval": run(tmp_path).spec["eval"], "seed": 1}
    records = run(tmp_path, "sft"), run(tmp_path, seed=1, spec=spec), run(tmp_path, seed=2)
    labels = [source.label for source in gallery(*records).columns]
    assert (labels[0], labels[3]) == ("base", "sft")
    assert labels[1] != labels[2]
    assert any("beta=200" in label for label in labels[1:3])


def test_more_columns_than_fit_are_named(tmp_path):
    keep_base(tmp_path)
    settings = run(tmp_path).spec["eval"]
    records = [
        run(tmp_path, seed=n, spec={"method": {"name": "lpo", "beta": n}, "eval": settings})
        for n in range(1, COLUMNS + 2)
    ]
    shown = gallery(*records)
    assert len(shown.columns) == COLUMNS
    assert shown.columns[0].label == "base"
    assert shown.left_out[0].startswith("2 of 16 columns are not shown: lpo (")


def test_prompts_are_taken_from_the_tasks_in_turn(tmp_path):
    prompts = many(100)
    keep_base(tmp_path, prompts)
    shown = gallery(run(tmp_path, prompts=prompts))
    assert [row.task for row in shown.rows].count("b") == 24
    assert [row.prompt for row in shown.rows[:4]] == ["prompt 0", "prompt 3", "prompt 1", "prompt 7"]
    assert shown.left_out == ("48 of 100 prompts are shown, taken from the tasks in turn",)


def test_a_gallery_keeps_to_its_room(tmp_path):
    prompts = many(12)
    keep_base(tmp_path, prompts, side=64)
    records = [run(tmp_path, prompts=prompts, side=64)]
    one = sum(len(tile.picture.address) for tile in gallery(*records).rows[0].tiles)
    shown = gallery(*records, room=4 * one)
    size = sum(len(tile.picture.address) for row in shown.rows for tile in row.tiles)
    assert 2 * one < size < 4 * one
    assert shown.left_out == (
        f"{len(shown.rows)} of 12 prompts are shown, taken from the tasks in turn",
        f"{12 - len(shown.rows)} more would not fit: a page stays below 25 MB",
    )


def test_two_galleries_share_the_room(tmp_path):
    keep_base(tmp_path, many(12), side=64)
    (subject,) = of_comparison(comparisons([run(tmp_path, prompts=many(12), side=64)])[0])
    one, other = galleries([subject, subject], ROOM)[0].rows, galleries([subject, subject], 300_000)
    assert len(one) == 12
    assert 0 < len(other[0].rows) <= len(other[1].rows) < 12


def test_a_metric_that_a_run_lacks_is_none(tmp_path):
    keep_base(tmp_path)
    less = run(tmp_path, "sft")
    less = less.model_copy(update={"metrics": {"correct": less.metrics["correct"]}})
    tiles = gallery(run(tmp_path), less).rows[0].tiles
    assert [tile.scores[1] for tile in tiles] == [1.0, 1.2, None]


def test_nothing_evaluated_shows_nothing():
    assert of_evaluations([]) == []
