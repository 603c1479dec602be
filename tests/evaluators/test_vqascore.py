"""VQAScore against t2v_metrics 1.2 (golden/make_vqascore.py), in float32."""

from pathlib import Path

import made_scorers
import numpy as np
import pytest
import seeded
import torch
from safetensors.torch import save_file

from evaluators._flant5.network import EYE, read_network
from evaluators._flant5.question import LONGEST, Questions
from lpobench.plugin import MissingAsset, UserError
from lpobench.types import Prompt

CPU, FLOAT = torch.device("cpu"), torch.float32
GOLDEN = seeded.golden("vqascore")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """An image at a time: fewer to fill up."""
    settings = made_scorers.vqascore(tmp_path_factory.mktemp("vqascore"))
    return settings.model_copy(update={"batch_size": 1})


def test_equals_the_official_code(small):
    np.testing.assert_allclose(made_scorers.table(small), GOLDEN["scores"], rtol=2e-5)


def test_questions_of_unequal_length_score_as_alone(small):
    """The official code pads them together and masks the padding: its own two ways agree to 1e-5."""
    live = small.model_copy(update={"batch_size": 2}).load(CPU, FLOAT)
    images = torch.cat([made_scorers.images((300, 300), seed) for seed in range(4)])
    prompts = [Prompt(text, "") for text in seeded.PROMPTS]
    alone = [live.score(images[i : i + 1], prompts[i : i + 1])["vqascore"][0] for i in range(4)]
    assert live.score(images, prompts)["vqascore"].tolist() == alone
    np.testing.assert_allclose(GOLDEN["together"], np.diagonal(GOLDEN["scores"]), rtol=1e-5)


def test_tokens_equal_the_slow_tokenizers(small):
    questions = Questions.read(Path(small.tokenizer), 10**6)
    for prompt, wanted in zip(seeded.PROMPTS, GOLDEN["tokens"], strict=True):
        assert [*questions.before, -200, *questions.after(prompt)] == wanted
    assert questions.answer == GOLDEN["answer"]
    assert len(questions.before) + 1 + len(questions.after("word " * 3000)) == LONGEST


def test_the_score_is_the_geometric_mean_over_the_answers_tokens(small):
    """Not p(Yes): with logits the decoder's biases alone, p is a softmax over the tokens there are, cut at 190."""
    network = read_network(Path(small.weights), Path(small.eye), FLOAT)
    rows = network.vocabulary
    logits = torch.linspace(-3, 3, 2 * rows).view(1, 2, rows)
    network.language.forward = lambda **given: type("", (), {"logits": logits})
    answer, words = torch.tensor([7, 1]), torch.tensor([[1, 2]])
    found = network(torch.zeros(1, 3, 336, 336), words[0], words, answer, 190)
    first, second = logits[0, :, :190].softmax(-1)
    assert found.item() == pytest.approx((first[7] * second[1]).sqrt().item(), rel=1e-5)


def test_the_eye_may_lie_in_its_own_folder(small, tmp_path):
    """Under the names of a whole CLIP, and CLIP-FlanT5 without one."""
    state = made_scorers.weights(GOLDEN)
    seen = {name.removeprefix(EYE): value for name, value in state.items() if name.startswith(EYE)}
    rest = {name: value for name, value in state.items() if not name.startswith(EYE)}
    for name, folder in (("config.json", small.weights), ("config.json", small.eye)):
        to = tmp_path / ("eye" if folder == small.eye else "")
        to.mkdir(exist_ok=True)
        (to / name).write_text((Path(folder) / name).read_text())
    save_file({**seen, "text_projection.weight": torch.ones(1)}, tmp_path / "eye" / "model.safetensors")
    save_file(rest, tmp_path / "model.safetensors")
    apart = small.model_copy(update={"weights": str(tmp_path), "eye": str(tmp_path / "eye")})
    assert made_scorers.table(apart) == made_scorers.table(small)


def test_bfloat16_is_near(small):
    half = made_scorers.table(small.model_copy(update={"dtype": "bfloat16"}))
    ratio = np.divide(half, made_scorers.table(small))
    assert 1e-4 < np.abs(ratio - 1).max() < 0.1


@pytest.mark.parametrize("spoil", ["part", "lost", "kind", "tokenizer", "words"])
def test_files_that_do_not_fit_are_told_in_one_line(tmp_path, spoil):
    settings = made_scorers.vqascore(tmp_path)
    told = {"part": "has no pytorch_model-00002-of-00002.bin", "lost": r"projector\.0\.bias is missing"}
    told |= {"kind": "mm_projector_type is not mlp2x_gelu", "tokenizer": "has no tokenizer.json"}
    told |= {"words": "has 190 tokens, the T5 it is for has 100"}
    if spoil == "part":
        (tmp_path / "pytorch_model-00002-of-00002.bin").unlink()
    if spoil == "lost":
        state = {
            name: value
            for name, value in made_scorers.weights(GOLDEN).items()
            if name != "mm_projector.0.bias"
        }
        save_file(state, tmp_path / "model.safetensors")
    if spoil == "kind":
        made_scorers.write_json(tmp_path / "config.json", {"model_type": "t5"})
    if spoil == "tokenizer":
        (tmp_path / "t5" / "tokenizer.json").unlink()
    words = 100 if spoil == "words" else 200
    read = lambda: Questions.read(Path(settings.tokenizer), words) and settings.load(CPU, FLOAT)
    with pytest.raises(
        MissingAsset if spoil in ("part", "tokenizer") else UserError, match=told[spoil]
    ) as caught:
        read()
    assert "\n" not in str(caught.value)
