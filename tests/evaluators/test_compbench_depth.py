"""Depth by DPT-hybrid at 480, against its official code on the same random weights; and the map made of it."""

import numpy as np
import pytest
import seeded
import torch
from made_compbench import depth_weights

from evaluators.t2i_compbench.depth import DepthMeter, in_frame, read_model
from lpobench.plugin import MissingAsset, UserError

GOLDEN = seeded.golden("dpt")


@pytest.fixture(scope="module")
def meter(tmp_path_factory):
    file = tmp_path_factory.mktemp("dpt") / "dpt_hybrid-midas.pt"
    torch.save(depth_weights(), file)
    return DepthMeter(read_model(file))


@pytest.mark.parametrize("number", range(3))
def test_depths_and_maps_are_the_official_ones(meter, number):
    """The maps are 8-bit: a depth on the edge of a level may fall on its other side."""
    picture, step = seeded.picture(*GOLDEN["sizes"][number], seed=number), GOLDEN["step"]
    depth = meter.inverse_depth(picture)
    np.testing.assert_allclose(depth[::step, ::step], GOLDEN["depths"][number], atol=1e-4, rtol=0)
    levels = (in_frame(depth, picture.shape[:2]) * 255).round().int()[::step, ::step].numpy()
    apart = np.abs(levels - np.array(GOLDEN["maps"][number]))
    assert apart.max() <= 1
    assert apart.mean() < 0.01


def test_folder_of_transformers_gives_the_same(meter, tmp_path):
    """Also where it says another eps, as the published one does."""
    meter.model.config.layer_norm_eps = 1e-12
    meter.model.save_pretrained(tmp_path)
    again = DepthMeter(read_model(tmp_path))
    assert again.model.config.layer_norm_eps == 1e-6
    picture = seeded.picture(40, 40)
    torch.testing.assert_close(again.inverse_depth(picture), meter.inverse_depth(picture), atol=1e-5, rtol=0)


def test_map_goes_from_0_to_1_in_the_frame_of_479():
    """A slope from left to right: 0 at the first pixel, 1 at the last, in whole levels."""
    slope = torch.arange(480.0).expand(480, 480) + 7
    found = in_frame(slope, (512, 512))
    assert found.shape == (479, 479)
    assert (found.min(), found.max()) == (0, 1)
    assert (found[0] == found[-1]).all()
    assert (found.diff(dim=1) >= 0).all()
    torch.testing.assert_close(found * 255, (found * 255).round())


def test_map_of_an_oblong_picture_and_of_a_wall():
    assert in_frame(torch.eye(480), (300, 600)).shape == (240, 480)
    assert in_frame(torch.full((480, 480), 3.0), (64, 64)).eq(0).all()


def test_other_files_are_refused_in_one_line(tmp_path):
    weights = depth_weights()
    del weights["scratch.output_conv.4.bias"]
    torch.save(weights, tmp_path / "a.pt")
    with pytest.raises(UserError, match=r"a\.pt does not fit: head\.head\.4\.bias is missing"):
        read_model(tmp_path / "a.pt")
    torch.save({"other": torch.zeros(1)}, tmp_path / "b.pt")
    with pytest.raises(UserError, match=r"b\.pt is no DPT-hybrid: 'pretrained\.model\.cls_token' is missing"):
        read_model(tmp_path / "b.pt")
    with pytest.raises(MissingAsset, match=r"has no model\.safetensors or pytorch_model\.bin"):
        read_model(tmp_path)
