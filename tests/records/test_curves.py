"""What runs log, read back and compared."""

import math

import pytest

from lpobench.plugin import MissingAsset
from lpobench.records.curves import compare_curves, read_curves, window_means

LINES = """\
{"update": 1, "round": 1, "loss": 0.7, "kl": 0.0, "seconds": 1.5}
{"update": 2, "round": 1, "loss": null, "seconds": 1.5}
not json
{"update": 3, "round": 2, "loss": 0.5, "kl": 0.25, "seconds": 9}
{"update": 4, "lo"""


def curves(folder, text):
    folder.mkdir(exist_ok=True)
    (folder / "metrics.jsonl").write_text(text)
    return read_curves(folder)


def test_every_number_by_update(tmp_path):
    """A torn or foreign line is skipped; what was not finite, or not logged, is nan."""
    found = curves(tmp_path, LINES)
    assert list(found) == ["loss", "kl", "seconds"]
    assert found["loss"].updates == (1, 2, 3)
    assert found["loss"].values == pytest.approx((0.7, math.nan, 0.5), nan_ok=True)
    assert found["kl"].values == pytest.approx((0.0, math.nan, 0.25), nan_ok=True)
    assert curves(tmp_path, "") == {}
    with pytest.raises(MissingAsset, match=r"no metrics.jsonl in"):
        read_curves(tmp_path / "nowhere")


def test_two_runs_part_where_they_first_differ(tmp_path):
    one = curves(tmp_path / "a", LINES)
    other = curves(tmp_path / "b", LINES.replace("0.5", "0.75").replace("0.25", "null") + "\n")
    loss, kl = compare_curves(one, other)
    assert (loss.key, loss.num, loss.first, loss.largest, loss.last) == ("loss", 3, 3, 0.25, (0.5, 0.75))
    assert (kl.key, kl.first, kl.largest) == ("kl", 3, math.inf)
    assert [curve.first for curve in compare_curves(one, one)] == [None, None]
    assert compare_curves(one, {}) == []


def test_means_over_a_window_leave_out_what_is_not_finite():
    assert window_means([1, 3, math.nan, 5], 2) == [1, 2, 3, 5]
    assert math.isnan(window_means([math.nan], 2)[0])
