"""ImageReward against image-reward 1.5 (golden/make_imagereward.py)."""

from pathlib import Path

import made_scorers
import numpy as np
import pytest
import seeded
import torch

from evaluators._blip import imagereward, vision
from lpobench.plugin import MissingAsset, UserError

CPU, FLOAT = torch.device("cpu"), torch.float32
GOLDEN = seeded.golden("imagereward")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return made_scorers.imagereward(tmp_path_factory.mktemp("imagereward"))


def test_equals_the_official_code(small):
    """An image at a time, as there; in a batch sums are rounded otherwise."""
    alone = made_scorers.table(small.model_copy(update={"batch_size": 1}))
    np.testing.assert_allclose(alone, GOLDEN["scores"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(made_scorers.table(small), GOLDEN["scores"], rtol=0, atol=5e-6)


def test_prompts_are_35_tokens_and_begin_as_they_are(small):
    tokens = imagereward.tokenizer(Path(small.tokenizer), len(seeded.BERT) + 2)(seeded.PROMPTS)
    assert tokens[:, 0].tolist() == GOLDEN["tokens"]
    assert tokens.shape == (4, 2, 35)
    assert tokens[2].sum(-1).tolist() == [2 + 3, 2]  # [CLS] [SEP]: no [ENC] in its place


def test_the_eyes_norms_have_blips_epsilon(small, monkeypatch):
    """Trap: transformers' 1e-5 is another score."""
    golden = np.array(GOLDEN["scores"])
    monkeypatch.setattr(vision, "EPS", 1e-5)
    assert 2e-6 < np.abs(made_scorers.table(small.model_copy(update={"batch_size": 1})) - golden).max() < 1e-3


def test_every_weight_of_the_eye_has_a_name(small):
    """The map leaves no name as it is, and meets all of transformers' own."""
    theirs = {name for name in GOLDEN["shapes"] if name.startswith("blip.visual_encoder.")}
    weights = {name.removeprefix("blip.visual_encoder."): torch.empty(0) for name in theirs}
    network = imagereward.read_network(Path(small.weights), FLOAT)
    assert set(vision.renamed(weights)) == set(network.eye.state_dict())
    assert network.eye.config.num_attention_heads == 2  # 128 / 64
    assert (network.eye.config.image_size, network.eye.config.patch_size) == (224, 56)


@pytest.mark.parametrize("spoil", ["eye", "med", "tokenizer", "lost", "none"])
def test_files_that_do_not_fit_are_told_in_one_line(tmp_path, spoil):
    settings, weights = made_scorers.imagereward(tmp_path), made_scorers.weights(GOLDEN)
    told = {
        "eye": "no vision transformer of BLIP: 'pos_embed'",
        "med": "has no hidden_act",
        "none": "has no ImageR",
    }
    told |= {"tokenizer": "makes 118 tokens with", "lost": r"head\.0\.bias is missing \(2 in all\)"}
    if spoil == "eye":
        del weights["blip.visual_encoder.pos_embed"]
    if spoil == "lost":
        del weights["mlp.layers.0.bias"], weights["mlp.layers.7.bias"]
    torch.save(weights, tmp_path / "ImageReward.pt")
    if spoil == "none":
        (tmp_path / "ImageReward.pt").unlink()
    if spoil == "med":
        med = {name: value for name, value in GOLDEN["med_config"].items() if name != "hidden_act"}
        made_scorers.write_json(tmp_path / "med_config.json", med)
    if spoil == "tokenizer":
        (tmp_path / "bert" / "vocab.txt").write_text("\n".join([*seeded.BERT, "more"]))
    with pytest.raises(MissingAsset if spoil == "none" else UserError, match=told[spoil]) as caught:
        settings.load(CPU, FLOAT)
    assert "\n" not in str(caught.value)
