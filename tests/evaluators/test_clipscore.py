"""CLIPScore against OpenAI's package, as T2I-CompBench calls it (golden/make_clipscore.py)."""

import json
from pathlib import Path

import made_clip
import made_scorers
import numpy as np
import open_clip
import pytest
import seeded
import torch

from evaluators._clip.prompts import KEPT, PromptCache, openai_tokenizer
from evaluators.clipscore import ClipScoreTiny
from lpobench.plugin import UserError
from lpobench.types import Prompt

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return made_scorers.clipscore(tmp_path_factory.mktemp("clipscore"))


def test_equals_the_official_code(small):
    golden = seeded.golden("clipscore")["scores"]
    np.testing.assert_allclose(made_scorers.table(small), golden, rtol=0, atol=1e-6)


def test_the_folders_own_tokenizer_says_the_same(small, tmp_path):
    """Where nothing is to be mended: the end and what pads it differ in place, not in effect."""
    folder = made_scorers.vocabulary(Path(small.weights))
    own = small.model_copy(update={"text": "folder", "weights": str(folder)})
    np.testing.assert_allclose(made_scorers.table(own), made_scorers.table(small), rtol=0, atol=2e-7)


def test_the_activation_is_the_folders(small, tmp_path):
    """Trap: QuickGELU is not GELU; a CLIP that was trained with one and runs with the other is silently wrong."""
    golden = seeded.golden("clipscore")
    for part in ("text_config", "vision_config"):
        golden["config"][part]["hidden_act"] = "gelu"
    plain = small.model_copy(update={"weights": str(made_scorers.clip_folder(tmp_path, golden))})
    assert np.abs(np.subtract(made_scorers.table(plain), golden["scores"])).max() > 1e-3


def test_any_folder_of_transformers_will_do(tmp_path):
    settings = ClipScoreTiny(weights=str(made_clip.folder(tmp_path)))
    prompts = [Prompt(text, "") for text in ("red", "blue", "red")]
    scores = settings.load(CPU, torch.float32).score(torch.rand(3, 3, 20, 24), prompts)["clipscore_tiny"]
    assert scores.between(-1, 1).all()
    assert scores.nunique() == 3


def test_openais_tokenizer_belongs_to_openais_vocabulary(tmp_path):
    settings = ClipScoreTiny(weights=str(made_clip.folder(tmp_path)), text="openai")
    with pytest.raises(UserError, match="OpenAI's tokenizer has 49408 tokens, the CLIP it is for has 54"):
        settings.load(CPU, torch.float32)


def test_long_prompts_are_cut_and_end():
    tokens = openai_tokenizer(49408, 77)(["word " * 100, "a&amp;b  C"])
    assert tokens.shape == (2, 77)
    assert tokens[0, -1] == 49407
    assert tokens[1].tolist() == open_clip.tokenize("A&B c")[0].tolist()


def test_a_prompt_is_embedded_once_and_with_company_of_one_size():
    asked = []

    def embed(tokens):
        asked.append(tokens.flatten().tolist())
        return tokens.float() + 0.5

    cache = PromptCache(lambda texts: torch.tensor([[len(text)] for text in texts]), embed)
    assert cache(["a", "bb", "a"]).flatten().tolist() == [1.5, 2.5, 1.5]
    assert cache(["bb", "ccc"]).flatten().tolist() == [2.5, 3.5]
    assert asked == [[1, 2, 2, 2, 2, 2, 2, 2], [3] * 8]


def test_the_cache_of_prompts_has_an_end():
    cache = PromptCache(
        lambda texts: torch.tensor([[int(text)] for text in texts]), lambda tokens: tokens.float()
    )
    many = [str(number) for number in range(KEPT + 3)]
    assert len(cache(many)) == KEPT + 3
    assert list(cache.kept) == many[3:]
    assert cache([many[3], many[0]]).flatten().tolist() == [3, 0]
    assert list(cache.kept)[-2:] == [many[3], many[0]]


def test_a_text_of_json_is_no_clip(tmp_path, small):
    made_scorers.write_json(tmp_path / "config.json", {"model_type": "siglip"})
    with pytest.raises(UserError, match=r"config\.json describes a siglip, should be a clip"):
        small.model_copy(update={"weights": str(tmp_path)}).load(CPU, torch.float32)
    (tmp_path / "config.json").write_text(json.dumps([1]))
    with pytest.raises(UserError, match="should hold names and values"):
        small.model_copy(update={"weights": str(tmp_path)}).load(CPU, torch.float32)
