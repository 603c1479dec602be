"""Figures of a report: what is drawn, from what, and the same bytes every time."""

from itertools import pairwise
from xml.etree import ElementTree

import numpy as np
import pytest
from make_records import Maker
from PIL import Image

from lpobench.records.record import read_all
from lpobench.records.sweep import Sweep
from lpobench.report import plots as module
from lpobench.report.ablation import ascending
from lpobench.report.drawing import look, panels
from lpobench.report.plots import ablation_curves, plots, save_all
from lpobench.report.report import Report, make_report


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Report:
    folder = tmp_path_factory.mktemp("runs")
    maker = Maker(folder, 30)
    made = maker.sweep({"0.1": [0.1, 0.1], "0.4": [0.4, 0.4]}, seeds=(0, 1))
    for seed in (0, 1):
        maker.run(f"spo-s{seed}", method="spo", seed=seed)
    return make_report(read_all(folder), [Sweep.read(made.folder)], [], {})


@pytest.fixture(scope="module")
def drawn(report):
    return {plot.name: plot for plot in plots(report)}


def lines(axes):
    return {line.get_label(): line for line in axes.get_lines() if not line.get_label().startswith("_")}


def test_one_figure_for_everything_that_is_known(drawn):
    assert list(drawn) == [
        "comparison-score-against-cost",
        "comparison-pairs-by-timestep",
        "comparison-thresholds",
        "comparison-training-tiny-sd15-lpo",
        "comparison-training-tiny-sd15-spo",
        "ablation-threshold-01234567",
        "threshold-01234567-score-against-cost",
        "threshold-01234567-pairs-by-timestep",
        "threshold-01234567-thresholds",
        "threshold-01234567-training-tiny-sd15-lpo",
    ]


def test_a_sweep_is_drawn_with_its_intervals(report, drawn):
    (_, comparison) = report.sweeps[0]
    panel = drawn["ablation-threshold-01234567"].figure.axes[1]
    assert panel.get_title(loc="left") == "alignment"
    assert [text.get_text() for text in panel.get_xticklabels()] == ["0.1", "0.4 (recipe)"]
    (container,) = panel.containers
    entries = [row.entries["alignment"] for row in comparison.rows[1:]]
    assert container.lines[0].get_ydata() == pytest.approx([entry.difference for entry in entries])
    segments = container.lines[2][0].get_segments()
    ends = [(low, high) for (_, low), (_, high) in segments]
    assert np.ravel(ends) == pytest.approx(np.ravel([(entry.low, entry.high) for entry in entries]))
    dots = [line.get_ydata() for line in panel.get_lines() if line.get_marker() == "."]
    assert np.ravel(dots) == pytest.approx(np.ravel([entry.by_seed for entry in entries]))


def test_values_without_an_order_are_not_connected(report):
    sweep, comparison = report.sweeps[0]

    def through():
        """Heights that the panel's lines go through, but for the one at 0 and the seeds."""
        panel = ablation_curves(sweep, comparison, "x", "x").figure.axes[0]
        lines = [line for line in panel.get_lines() if line.get_marker() == "None"]
        return [list(line.get_ydata()) for line in lines if list(line.get_ydata()) != [0, 0]]

    entries = [row.entries["correct"] for row in comparison.rows[1:]]
    assert through() == [[entry.difference for entry in entries]]
    words = [row.setting for row in comparison.rows]
    object.__setattr__(comparison.rows[1], "setting", "std")
    alone = through()
    object.__setattr__(comparison.rows[1], "setting", words[1])
    assert alone == []


@pytest.mark.parametrize(
    ("labels", "runs"),
    [
        (["0.05", "0.1", "0.2", "[0.0, 0.1]", "[0.05, 0.15]"], [[0, 1, 2], [3, 4]]),
        (["[0, 200]", "[500, 700]", "[0, 450]", "[0, 700]"], [[0, 1], [2, 3]]),
        (["std", "variance", "1", "0.5"], [[0], [1], [2], [3]]),
        (["none", "1", "2", "nan", "3"], [[0], [1, 2], [3], [4]]),
        ([], []),
    ],
)
def test_neighbours_that_grow(labels, runs):
    assert ascending(labels) == runs


def test_thresholds_and_pairs_are_those_on_record(report, drawn):
    records = {record.id: record for record in report.records}
    found = lines(drawn["threshold-01234567-thresholds"].figure.axes[0])
    training = records["sweep-0-s0"].training
    times = [float(t) for t in training["thresholds"]]
    assert list(found["0.1"].get_xdata()) == sorted(times, reverse=True)
    assert found["0.1"].get_ydata() == pytest.approx([0.1] * len(times))
    assert found["0.4 (recipe)"].get_ydata() == pytest.approx([0.4] * len(times))
    kept = lines(drawn["threshold-01234567-pairs-by-timestep"].figure.axes[0])["0.1"].get_ydata()
    both = [records[f"sweep-0-s{seed}"].training["rows_by_t"] for seed in (0, 1)]
    assert kept == pytest.approx([(both[0][t] + both[1][t]) / 2 / 64 for t in both[0]])


def test_training_is_the_mean_over_seeds(drawn):
    figure = drawn["comparison-training-tiny-sd15-lpo"].figure
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["mean reward of what was scored", "loss", "accuracy", "rows of a round"]
    (line,) = lines(figure.axes[2]).values()
    expected = [0.5 + update / 100 for update in range(1, 33)]
    assert line.get_ydata()[2:] == pytest.approx([(a + b) / 2 for a, b in pairwise(expected[1:])])


def test_costs_are_those_of_the_table(report, drawn):
    panel = drawn["comparison-score-against-cost"].figure.axes[0]
    (comparison,) = report.comparisons.values()
    rows = [row for row in comparison.rows if row.effort]
    places = [container.lines[0].get_xydata()[0] for container in panel.containers]
    assert np.ravel(places) == pytest.approx(
        np.ravel([(row.effort.rows, row.entries["correct"].difference) for row in rows])
    )


def test_files_are_the_same_bytes_again(report, tmp_path, monkeypatch):
    first, again = tmp_path / "a", tmp_path / "b"
    for folder in (first, again):
        monkeypatch.setattr(module, "plots", lambda found: plots(found)[2:3])
        paths = save_all(report, folder)
    assert [path.name for path in paths] == ["comparison-thresholds.png", "comparison-thresholds.svg"]
    assert all((first / path.name).read_bytes() == path.read_bytes() for path in paths)
    with Image.open(paths[0]) as picture:
        assert np.asarray(picture.convert("L")).std() > 5, "something is drawn"
    assert ElementTree.parse(paths[1]).getroot().tag.endswith("svg")


def test_nothing_is_drawn_of_nothing(tmp_path):
    empty = make_report([], [], [], {})
    assert save_all(empty, tmp_path / "figures") == []
    assert not (tmp_path / "figures").exists()


def test_panels_and_looks():
    figure, axes = panels(4, "a title " * 30, "note")
    assert len(axes) == 4
    assert [axes.get_gridspec().ncols for axes in figure.axes] == [2] * 4
    assert "\n" in figure.get_suptitle()
    assert len({tuple(look(number).values()) for number in range(18)}) == 18
    assert len({(look(number)["color"], look(number)["marker"]) for number in range(36)}) == 36
