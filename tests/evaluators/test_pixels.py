"""Pictures whose statistics are known by hand."""

import math

import pytest
import torch

from evaluators.pixels import Pixels


def score(image):
    [row] = Pixels().score(torch.tensor(image, dtype=torch.float32)[None], ["any prompt"]).to_dict("records")
    return row


def test_grey_has_brightness_alone():
    assert score([[[0.25] * 4] * 4] * 3) == pytest.approx(
        {"brightness": 0.25, "contrast": 0, "colourfulness": 0, "sharpness": 0}, abs=1e-7
    )


def test_red():
    """rg = 255 and yb = 127.5 everywhere: no spread, and 0.3 of the length of that vector."""
    red = score([[[1.0] * 3] * 3, [[0.0] * 3] * 3, [[0.0] * 3] * 3])
    assert red["brightness"] == pytest.approx(0.2126)
    assert red["colourfulness"] == pytest.approx(0.3 * math.hypot(255, 127.5))


def test_half_red_half_green():
    """rg = +-255: spread 255, mean 0. yb = 127.5: spread 0. So 255 + 0.3 * 127.5."""
    half = [[1.0, 1.0, 0.0, 0.0]] * 4
    other = [[0.0, 0.0, 1.0, 1.0]] * 4
    found = score([half, other, [[0.0] * 4] * 4])
    assert found["colourfulness"] == pytest.approx(255 + 0.3 * 127.5)


def test_chessboard():
    """Black and white: contrast 1/2; the Laplacian is +-4 at every inner pixel."""
    board = [[float((x + y) % 2) for x in range(6)] for y in range(6)]
    found = score([board] * 3)
    assert (found["contrast"], found["sharpness"]) == pytest.approx((0.5, 4))
    assert found["colourfulness"] == pytest.approx(0, abs=1e-9)


def test_everything_stays_in_its_declared_range():
    images = torch.rand((5, 3, 8, 12), generator=torch.Generator().manual_seed(0)).round()
    table = Pixels().score(images, [""] * 5)
    for name, metric in Pixels.metrics.items():
        assert table[name].between(metric.low, metric.high).all()
