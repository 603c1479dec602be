"""What `inspect` finds, against sets whose content is known."""

import json
from collections import Counter

import make_pickapic
import numpy as np
import pandas as pd
import pytest
import tiny_unet
from PIL import Image

from lpobench.data.pairs import open_pairs
from lpobench.data.pairs.inspect import histograms, inspect
from lpobench.data.pairs.samples import grid, write_grid
from lpobench.data.pairs.world import jpeg

DAMAGED = {"broken jpeg": 2, "not an image": 1, "no caption": 1}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inspected")
    return folder, make_pickapic.write(folder, 70, held_out=4, group=9, damaged=DAMAGED)


def test_counts_equal_a_plain_count(made):
    folder, damaged = made
    bad = {row for rows in damaged.values() for row in rows}
    rows = [row for i, row in enumerate(make_pickapic.rows("train", 70, seed=0)) if i not in bad]
    rows += [*make_pickapic.rows("validation_unique", 4, 0), *make_pickapic.rows("test_unique", 4, 0)]
    labelled = Counter(row["label_0"] for row in rows if row["has_label"])
    uses = [row[name] for row in rows for name in ("jpg_0", "jpg_1")]
    found, _ = inspect(open_pairs(str(folder)))
    assert (found.rows, found.usable) == (78, 74)
    assert found.splits == {"train": 66, "validation_unique": 4, "test_unique": 4}
    assert found.labels.image_0 == labelled[1.0]
    assert found.labels.image_1 == labelled[0.0]
    assert found.labels.tie == labelled[0.5]
    assert found.labels.unlabelled == sum(not row["has_label"] for row in rows)
    assert found.labels.balance == labelled[1.0] / (labelled[1.0] + labelled[0.0])
    assert found.prompts == len({row["caption"] for row in rows})
    assert found.captions_repeated == len(rows) - found.prompts
    assert (found.images, found.images_repeated) == (len(set(uses)), len(uses) - len(set(uses)))
    assert found.sizes == {"64x64": len(uses)}
    assert (found.pairs_repeated, found.twins) == (0, 0)
    assert [(entry["reason"], entry["count"]) for entry in found.bad_rows] == [
        ("an image cannot be decoded", 3),
        ("caption is missing", 1),
    ]
    json.dumps(found.document())


def test_only_the_first_rows_are_told_of(made):
    folder, damaged = made
    limit = max(row for rows in damaged.values() for row in rows)
    found, _ = inspect(open_pairs(str(folder)), limit=limit)
    assert found.rows == limit
    assert sum(entry["count"] for entry in found.bad_rows) == 3
    assert found.usable == limit - 3


def test_repeats_and_sizes(tmp_path):
    pictures = {
        "a.jpg": jpeg(np.zeros((8, 12, 3), np.uint8)),
        "b.jpg": jpeg(np.full((3, 5, 3), 9, np.uint8)),
        "copy.jpg": jpeg(np.zeros((8, 12, 3), np.uint8)),
    }
    for name, data in pictures.items():
        (tmp_path / name).write_bytes(data)
    lines = [
        ("x", "a.jpg", "b.jpg"),
        ("x", "b.jpg", "copy.jpg"),
        ("y", "a.jpg", "copy.jpg"),
        ("y", "a.jpg", "b.jpg"),
    ]
    (tmp_path / "pairs.jsonl").write_text(
        "\n".join(json.dumps({"prompt": p, "image_0": a, "image_1": b, "label_0": 1}) for p, a, b in lines)
    )
    found, _ = inspect(open_pairs(str(tmp_path)))
    assert (found.images, found.images_repeated) == (2, 6)
    assert found.pairs_repeated == 1  # row 1 is row 0 the other way round, under another name
    assert found.twins == 1
    assert found.sizes == {"12x8": 5, "5x3": 3}


def test_latents_have_gaps_and_no_images(tmp_path):
    pairs = tiny_unet.pairs(4, aesthetic_gap=[-1.0, 0.0, 2.0, np.nan])
    pairs.write(tmp_path)
    found, _ = inspect(open_pairs(str(tmp_path)))
    assert found.images == 0
    gap = found.gaps["aesthetic_gap"]
    assert sum(gap["win_lose"]) + sum(gap["ties"]) == 3
    assert gap["unknown"] == 1


def test_histograms_are_counted_by_hand():
    """Win-lose gaps -3, 1, 3; a tie at 0; one without a label is in neither. Two of three agree with the label."""
    table = pd.DataFrame(
        {
            "label_0": [1.0, 0.0, 1.0, 0.5, 1.0],
            "label_1": [0.0, 1.0, 0.0, 0.5, 0.0],
            "has_label": [True, True, True, True, False],
            "some_gap": [-3.0, 1.0, 3.0, 0.0, 9.0],
            "none_gap": np.nan,
        }
    )
    found = histograms(table)
    assert list(found) == ["some_gap"]
    gap = found["some_gap"]
    assert gap["edges"] == pytest.approx(np.linspace(-3, 3, 13))
    assert np.flatnonzero(gap["win_lose"]).tolist() == [0, 8, 11]
    assert np.flatnonzero(gap["ties"]).tolist() == [6]
    assert gap["agree_with_label"] == pytest.approx(2 / 3)


def test_the_picture_shows_a_drawn_sample_and_frames_the_winner(made, tmp_path):
    folder, damaged = made
    _, shown = inspect(open_pairs(str(folder)), show=7, seed=1)
    again = inspect(open_pairs(str(folder)), show=7, seed=1)[1]
    other = inspect(open_pairs(str(folder)), show=7, seed=2)[1]
    rows = [pair.row for pair in shown]
    assert rows == [pair.row for pair in again] != [pair.row for pair in other]
    assert len(set(rows)) == 7
    assert all(pair.has_label for pair in shown)
    assert not set(rows) & {row for bad in damaged.values() for row in bad}
    for name in ("a.png", "b.png"):
        write_grid(tmp_path / name, shown)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert Image.open(tmp_path / "a.png").format == "PNG"
    winner = next(pair for pair in shown if pair.label_0 == 1)
    assert grid([winner]).getpixel((11, 11)) == (0x2A, 0x9D, 0x4A)
    assert grid([]).size[0] > 0
