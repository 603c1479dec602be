"""tiny-clip: who is whose negative, the loss, the recipe, and the shipped folder."""

import argparse
import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

from lpobench.data.shapes.render import draw
from lpobench.data.shapes.scene import parse, sample_scenes
from lpobench.data.shipped import shipped
from rewards import tiny_clip
from rewards.tiny_clip import agreement, contrastive_loss, near_misses


def agree(a: str, b: str) -> int:
    found = agreement(parse(a), parse(b))
    assert agreement(parse(b), parse(a)) == found
    return found


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ("a red star", "a red star", 1),
        ("a star above a circle", "a circle below a star", 1),
        ("a red star and a blue circle", "a blue circle and a red star", 1),
        ("a star", "a small red star", 0),
        ("a star and a circle", "a circle left of a star", 0),
        ("two stars", "two red stars", 0),
        ("a red star", "a blue star", -1),
        ("a small star", "a large red star", -1),
        ("two stars", "three stars", -1),
        ("two stars", "a star and a circle", -1),
        ("a star above a circle", "a circle above a star", -1),
        ("a red star and a blue circle", "a blue star and a red circle", -1),
    ],
)
def test_agreement_of_captions(a, b, expected):
    assert agree(a, b) == expected


def test_near_misses_never_fit():
    """And differ from each other; "a star" has only three: the other shapes."""
    rng = np.random.default_rng(0)
    for scene in sample_scenes("train", 60, rng):
        wrong = near_misses(scene, 3, rng)
        assert all(agreement(scene, one) == -1 for one in wrong)
        assert len(set(wrong)) == len(wrong) > 0
    assert {one.text for one in near_misses(parse("a star"), 7, rng)} <= {
        "a circle",
        "a square",
        "a triangle",
    }


def test_a_caption_a_picture_may_fit_counts_on_neither_side():
    """Picture 0 fits caption 0, may fit caption 1, not caption 2; picture 1 fits caption 2 alone. Logits are 0 but
    for a 9 where it must not count. Pictures: ln 2 over captions {0, 2}, ln 3 over {0, 1, 2}. Captions: 0 over
    both pictures ln 2, 2 as well; 1, right nowhere, is left out. (ln 2 + ln 3) / 4 + ln 2 / 2.
    """
    match = torch.tensor([[1, 0, -1], [-1, -1, 1]])
    logits = torch.zeros(2, 3)
    logits[0, 1] = 9
    expected = (math.log(2) + math.log(3)) / 4 + math.log(2) / 2
    assert contrastive_loss(logits, match).item() == pytest.approx(expected, rel=1e-6)


def test_captions_of_one_meaning_are_positives():
    """Two right captions, one wrong: ln 3 - ln 2 for the picture, 0 for either caption: half of ln 1.5."""
    logits = torch.zeros(1, 3, requires_grad=True)
    loss = contrastive_loss(logits, torch.tensor([[1, 1, -1]]))
    assert loss.item() == pytest.approx(math.log(1.5) / 2, rel=1e-6)
    loss.backward()
    assert logits.grad.isfinite().all()


def train(folder: Path, steps: int, save_every: int = 100) -> dict[str, torch.Tensor]:
    """Two pictures a step; the gate is looked at elsewhere."""
    folder.mkdir(exist_ok=True)
    args = argparse.Namespace(
        work=folder, out=folder, steps=steps, batch=2, precision="fp32", save_every=save_every, seed=0
    )
    run = tiny_clip.TinyClipTraining(args)
    run.run()
    run.write(folder)
    return load_file(folder / "model.safetensors")


def test_a_resumed_training_ends_where_an_unbroken_one_does(tmp_path, monkeypatch):
    """4 steps against 2 + 2, bit for bit. The learning rate depends on the length: held constant."""
    monkeypatch.setattr(tiny_clip, "learning_rate", lambda *_: 1.0)
    monkeypatch.setattr(tiny_clip, "retrieval", lambda *_: {})
    whole = train(tmp_path / "whole", 4)
    train(tmp_path / "broken", 2)
    broken = train(tmp_path / "broken", 4)
    assert whole.keys() == broken.keys()
    assert all(torch.equal(value, broken[key]) for key, value in whole.items())


def test_every_parameter_is_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(tiny_clip, "retrieval", lambda *_: {})
    args = argparse.Namespace(
        work=tmp_path, out=tmp_path, steps=1, batch=2, precision="fp32", save_every=9, seed=0
    )
    run = tiny_clip.TinyClipTraining(args)
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    run.run()
    assert [name for name, value in run.model.state_dict().items() if torch.equal(value, before[name])] == []


def test_learning_rate():
    """1 / 50 at first, full from step 50, half way down at 80 % of the run."""
    rates = [tiny_clip.learning_rate(step, 1000) for step in (0, 49, 599, 800, 999)]
    assert rates == pytest.approx([0.02, 1, 1, 0.5, 0.01])


@pytest.fixture(scope="module")
def clip():
    folder = shipped("tiny-clip")
    return CLIPModel.from_pretrained(folder).float().eval(), CLIPTokenizer.from_pretrained(folder)


def test_the_shipped_one_is_a_stock_folder(clip):
    """Scene and picture through the stock tokenizer, image processor and forward pass: its own caption wins."""
    model, tokenizer = clip
    folder = shipped("tiny-clip")
    processor = CLIPImageProcessor.from_pretrained(folder)
    rng = np.random.default_rng(0)
    captions = ["a large red star", "two blue circles", "a green square left of a purple triangle"]
    pictures = [(draw(parse(caption), rng) * 255).round().astype("uint8") for caption in captions]
    tokens = tokenizer(captions, padding=True, return_tensors="pt")
    pixels = processor(pictures, return_tensors="pt").pixel_values
    assert pixels.shape == (3, 3, 64, 64)
    with torch.no_grad():
        logits = model(input_ids=tokens.input_ids, pixel_values=pixels).logits_per_image
    assert logits.argmax(1).tolist() == [0, 1, 2]
    assert sum(path.stat().st_size for path in folder.iterdir()) < 6e6
    weights = load_file(folder / "model.safetensors").values()
    assert {value.dtype for value in weights} == {torch.float16}


def test_the_shipped_one_tells_near_misses(clip):
    """120 held-out pictures, 20 of each task; the recipe's own gate looks at 1,200."""
    found = tiny_clip.retrieval(*clip, num=120, seed=2)
    assert found["near"] >= tiny_clip.GATE - 0.1
    assert found["random"] >= 0.9


def test_our_preprocessing_is_the_image_processors():
    """`embed` normalises as the folder says: at 64 pixels nothing else happens."""
    processor, rng = tiny_clip.image_processor(), np.random.default_rng(0)
    picture = (rng.random((64, 64, 3)) * 255).round().astype("uint8")
    stock = processor([picture], return_tensors="pt").pixel_values[0]
    seen = []
    model = argparse.Namespace(
        get_image_features=lambda pixels: (
            seen.append(pixels) or argparse.Namespace(pooler_output=pixels.flatten(1))
        ),
        get_text_features=lambda tokens: argparse.Namespace(pooler_output=tokens.float()),
    )
    tokenizer = CLIPTokenizer.from_pretrained(tiny_clip.TOKENIZER)
    tiny_clip.embed(model, tokenizer, picture[None].astype(np.float32) / 255, ["a star"])
    torch.testing.assert_close(seen[0][0], stock, atol=1e-5, rtol=0)


def test_all_captions_of_the_world_fit_the_tokenizer():
    """No word is split, and the longest caption fits: 16 tokens."""
    tokenizer = CLIPTokenizer.from_pretrained(tiny_clip.TOKENIZER)
    rng = np.random.default_rng(0)
    texts = [
        scene.text
        for scene in itertools.chain(sample_scenes("train", 200, rng), sample_scenes("eval", 200, rng))
    ]
    assert all(
        len(ids) == len(text.split()) + 2 <= 16
        for ids, text in zip(tokenizer(texts).input_ids, texts, strict=True)
    )
