import json

import numpy as np
import pytest
import tiny_unet
import torch

from lpobench.data.pairs import LATENTS, META, LatentPairs
from lpobench.plugin import MissingAsset, UserError


def test_folder_round_trip(tmp_path):
    pairs = tiny_unet.pairs(5, aesthetic_gap=0.1 + 0.2, true_preference_0=[1.0, np.nan, 0.3, 1e-17, -2.0])
    pairs.write(tmp_path)
    back = LatentPairs.read(tmp_path, tiny_unet.LATENT_SPACE)
    assert back.table.equals(pairs.table.astype(back.table.dtypes))
    assert torch.equal(back.latents, pairs.latents)
    assert back.uids == pairs.uids
    assert set(json.loads((tmp_path / META).read_text())["sha256"]) == {"pairs.csv.gz", "latents.safetensors"}


def test_same_pairs_give_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        tiny_unet.pairs().write(tmp_path / name)
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_captions_that_look_like_missing_values_stay_text(tmp_path):
    tiny_unet.pairs(3, caption=["null", "NA", ""]).write(tmp_path)
    assert LatentPairs.read(tmp_path).table["caption"].tolist() == ["null", "NA", ""]


def test_batch_finds_latents_by_uid():
    pairs = tiny_unet.pairs(3, image_1_uid=["train-5", "train-0", "train-2"])
    batch = pairs.batch(torch.tensor([2, 0]))
    assert torch.equal(batch.latents_0, pairs.latents[[4, 0]].float())
    assert torch.equal(batch.latents_1, pairs.latents[[2, 5]].float())
    assert batch.prompts == ["a star", "red"]
    assert batch.latents_0.dtype == torch.float32


def test_weight_is_one_over_examples_of_the_prompt():
    pairs = tiny_unet.pairs(2, num_example_per_prompt=[1, 4])
    assert pairs.batch(torch.arange(2)).weight.tolist() == [1, 0.25]


def test_split_keeps_labelled_pairs():
    pairs = tiny_unet.pairs(3, has_label=[True, True, False]).take(np.arange(3))
    pairs.table["split"] = ["train", "test_unique", "train"]
    assert len(pairs.split("train")) == 1
    assert pairs.split("test_unique").table.index.tolist() == [1]


def test_mixed_sources_count_by_their_pairs():
    """Means of 1/n: 0.25 and 1. Scaled, each source averages 1."""
    four, one = tiny_unet.pairs(3, num_example_per_prompt=4), tiny_unet.pairs(3, seed=1)
    both = LatentPairs.cat([four, one])
    np.testing.assert_allclose(both.weights, 1)
    assert torch.equal(both.batch(torch.arange(3)).latents_0, four.batch(torch.arange(3)).latents_0)
    assert torch.equal(both.batch(torch.arange(3, 6)).latents_0, one.batch(torch.arange(3)).latents_0)


def test_latent_space_must_match(tmp_path):
    tiny_unet.pairs().write(tmp_path)
    with pytest.raises(UserError, match="of test-f8c4, the backbone makes other"):
        LatentPairs.read(tmp_path, "other")


def test_missing_folder(tmp_path):
    with pytest.raises(MissingAsset, match=str(tmp_path / "none")):
        LatentPairs.read(tmp_path / "none")


def test_changed_file_is_named(tmp_path):
    tiny_unet.pairs().write(tmp_path)
    data = bytearray((tmp_path / LATENTS).read_bytes())
    data[-1] ^= 1
    (tmp_path / LATENTS).write_bytes(data)
    with pytest.raises(UserError, match=r"latents\.safetensors is damaged"):
        LatentPairs.read(tmp_path)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"label_0": 0.7}, "label_0 \\+ label_1 must be 1"),
        ({"image_1_uid": "ghost"}, "names image 'ghost', which has no latent"),
    ],
)
def test_inconsistent_pairs_are_refused(columns, message):
    with pytest.raises(UserError, match=message):
        tiny_unet.pairs(4, **columns)
