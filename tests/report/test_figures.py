"""The sample grid holds the pictures as they are, in their places."""

import numpy as np
import pytest
from PIL import Image

from lpobench.report.figures import GAP, LINE, MARGIN, Column, grid


def pictures(*colors, side=64):
    return np.stack([np.full((side, side, 3), color, np.uint8) for color in colors])


def test_pictures_are_in_their_row_and_column(tmp_path):
    """64 pixels are shown as 128; a row is a line of caption, the pictures and a line for the marks."""
    none = Column("none", pictures((255, 0, 0), (0, 255, 0)))
    method = Column("lpo", pictures((0, 0, 255), (9, 9, 9)))
    grid(tmp_path / "grid.png", [none, method], ["a red circle", "two stars"])
    sheet = np.asarray(Image.open(tmp_path / "grid.png"))
    row = LINE + 128 + LINE + GAP
    assert sheet.shape == (MARGIN + LINE + 2 * row, 2 * MARGIN + 2 * 128 + GAP, 3)
    for place, expected in (
        ((0, 0), (255, 0, 0)),
        ((1, 0), (0, 255, 0)),
        ((0, 1), (0, 0, 255)),
        ((1, 1), (9, 9, 9)),
    ):
        top = MARGIN + LINE + place[0] * row + LINE
        left = MARGIN + place[1] * (128 + GAP)
        assert (sheet[top : top + 128, left : left + 128] == expected).all()


def test_marks_differ_in_shape_and_are_optional(tmp_path):
    def under(passed):
        column = Column("none", pictures((0, 0, 0)), passed)
        grid(tmp_path / "grid.png", [column], ["a"])
        return (np.asarray(Image.open(tmp_path / "grid.png"))[-LINE - GAP :] != 255).any(-1)

    yes, no, absent = under([True]), under([False]), under(None)
    assert not absent.any()
    assert yes.any()
    assert no.any()
    assert (yes != no).any()


def test_long_captions_are_wrapped_and_endless_words_cut(tmp_path):
    column = Column("none", pictures((0, 0, 0)))
    heights = []
    for caption in ("a", "a red circle left of a blue star above a green square", "x" * 300):
        grid(tmp_path / "grid.png", [column], [caption])
        heights.append(Image.open(tmp_path / "grid.png").height)
    assert heights[1] > heights[0] == heights[2]


@pytest.mark.parametrize(("side", "shown"), [(8, 128), (100, 200), (512, 512), (1024, 512)])
def test_shown_size(tmp_path, side, shown):
    grid(tmp_path / "grid.png", [Column("none", pictures((0, 0, 0), side=side))], ["a"])
    assert Image.open(tmp_path / "grid.png").width == 2 * MARGIN + shown


def test_the_same_grid_is_the_same_file(tmp_path):
    for name in "ab":
        grid(tmp_path / name, [Column("none", pictures((1, 2, 3)), [True])], ["a"])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
