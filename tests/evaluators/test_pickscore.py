"""PickScore against transformers 4.27.3 (golden/make_pickscore.py)."""

import made_scorers
import numpy as np
import pytest
import seeded
import torch

from evaluators.pickscore import PickScore
from lpobench.plugin import MissingAsset, UserError


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return made_scorers.pickscore(tmp_path_factory.mktemp("pickscore"))


def test_equals_the_official_code(small):
    golden = seeded.golden("pickscore")["scores"]
    np.testing.assert_allclose(made_scorers.table(small), golden, rtol=0, atol=2e-5)


def test_missing_weights_are_told_before_anything_is_loaded(monkeypatch, tmp_path):
    for name in ("LPOBENCH_ASSETS", "HF_HUB_CACHE", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    with pytest.raises(MissingAsset) as caught:
        PickScore().assets()
    message = str(caught.value)
    assert "yuvalkirstain/PickScore_v1, size 3.94 GB, licence" in message
    assert "`lpobench download pickscore`" in message
    assert "\n" not in message


def test_a_tokenizer_of_another_model_is_refused(small, tmp_path):
    made_scorers.write_json(tmp_path / "vocab.json", {"<|startoftext|>": 0, "<|endoftext|>": 1})
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    other = small.model_copy(update={"processor": str(tmp_path)})
    with pytest.raises(UserError, match="has 2 tokens, the CLIP it is for has 49408"):
        other.load(torch.device("cpu"), torch.float32)
