"""The chart of accuracies: where lines, bands and ticks are, and that both files come out alike."""

import math

import numpy as np
import pytest
from PIL import Image

from lpobench.report.line_chart import COLORS, Chart, Line

TICKS = ["951", "501", "1", "finished"]


def chart(*lines: Line, ticks=TICKS) -> Chart:
    return Chart("Title", "timestep", "accuracy", ticks, lines, "a < b")


def test_points_and_bands_are_where_their_values_are():
    line = Line("lrm", [0.5, 0.6, 0.62, 0.65], [0.0, 0.04, 0.02, 0.05], [0.55, 0.6, 0.7, 0.7])
    (axes,) = chart(line).figure().axes
    solid, dashed, chance = axes.lines
    assert solid.get_xydata().tolist() == [[0, 0.5], [1, 0.6], [2, 0.62], [3, 0.65]]
    assert dashed.get_ydata().tolist() == [0.55, 0.6, 0.7, 0.7]
    assert list(chance.get_ydata()) == [0.5, 0.5]
    (band,) = axes.collections
    edges = {(x, round(y, 4)) for x, y in band.get_paths()[0].vertices.tolist()}
    assert edges >= {(0, 0.5), (1, 0.64), (2, 0.64), (3, 0.7), (3, 0.6), (2, 0.6), (1, 0.56)}
    assert [label.get_text() for label in axes.get_xticklabels()] == TICKS
    assert axes.get_ylim() == pytest.approx((0.5, 0.7))


@pytest.mark.parametrize(
    ("values", "errors", "limits"),
    [
        ([0.61, 0.73], [0.01, 0.03], (0.5, 0.8)),
        ([0.61, 0.75], [0.0, 0.0], (0.5, 0.75)),
        ([0.44, 0.5], [0.01, math.nan], (0.4, 0.5)),
        ([0.99, 1.0], [0.05, 0.0], (0.5, 1.0)),
        ([math.nan, math.nan], [math.nan, math.nan], (0.5, 0.55)),
    ],
)
def test_the_axis_shows_everything_and_chance(values, errors, limits):
    assert chart(Line("a", values, errors)).limits() == pytest.approx(limits)


def test_lines_can_be_told_apart():
    names = ["a", "b", "c", "d", "e", "f", "g"]
    (axes,) = chart(*(Line(name, [0.6] * 4, [0.0] * 4) for name in names)).figure().axes
    looks = {(line.get_color(), line.get_marker()) for line in axes.lines[:-1]}
    assert len(looks) == len(COLORS)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == names


def test_the_files_are_the_same_every_time(tmp_path):
    wanted = chart(Line("lrm", [0.6, 0.7, math.nan, 0.8], [0.02] * 4))
    for folder in ("first", "again"):
        (tmp_path / folder).mkdir()
        paths = wanted.save(tmp_path / folder, "accuracy")
        assert [path.name for path in paths] == ["accuracy.png", "accuracy.svg"]
    for name in ("accuracy.png", "accuracy.svg"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    assert np.asarray(Image.open(tmp_path / "again" / "accuracy.png").convert("RGB")).min() < 60
    assert "a &lt; b" in (tmp_path / "again" / "accuracy.svg").read_text()
