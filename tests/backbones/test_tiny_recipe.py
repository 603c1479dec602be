"""The recipe of the embedded models: resuming, near misses, labels."""

import argparse
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from backbones.tiny import SHIPPED, gates, local_attention, models, pairs, train
from backbones.tiny.families import FAMILIES
from lpobench.data.pairs import COLUMNS
from lpobench.data.shapes.judge import Judgement, judge
from lpobench.data.shapes.render import draw
from lpobench.data.shapes.scene import TASKS, parse, sample_scene

TINY_SDXL = Path(train.__file__).parent / "tiny-sdxl"


@pytest.fixture
def stage(tmp_path, monkeypatch):
    """Runs one stage in its own folders; the gates are not looked at, and pictures come by no more than eight."""
    rendered = train.pictures
    monkeypatch.setattr(train, "pictures", lambda num, rng: rendered(min(num, 8), rng))
    monkeypatch.setattr(gates, "vae", lambda *_, **__: {})
    monkeypatch.setattr(gates, "base", lambda *_, **__: {})

    def run(name: str, where: str, steps: int, model: str = "tiny-sd15", vae: Path | None = None):
        work = tmp_path / where
        work.mkdir(exist_ok=True)
        args = argparse.Namespace(
            work=work, out=work / "out", steps=steps, batch=2, pictures=200, gate_every=10**9,
            gate_prompts=0, seed=0, device="cpu", model=model, vae=vae, text_encoders=TINY_SDXL,
        )  # fmt: skip
        {"vae": train.train_vae, "base": train.train_base}[name](args)
        return work / "out"

    return run


def weights(folder):
    return {str(f.relative_to(folder)): load_file(f) for f in sorted(folder.rglob("*.safetensors"))}


def test_a_resumed_recipe_ends_where_an_unbroken_one_does(stage, monkeypatch):
    """4 steps against 2 + 2, both stages, bit for bit. The learning rate depends on the length: held constant."""
    monkeypatch.setattr(train, "learning_rate", lambda *_, **__: 1.0)
    for name in ("vae", "base"):
        whole = stage(name, "whole", 4)
        stage(name, "broken", 2)
        broken = stage(name, "broken", 4)
    a, b = weights(whole), weights(broken)
    assert a.keys() == b.keys()
    assert len(a) == 3  # VAE, UNet, text encoder
    for file in a:
        for key in a[file]:
            assert torch.equal(a[file][key], b[file][key]), (file, key)


@pytest.mark.parametrize("model", ["tiny-sdxl", "tiny-sd3"])
def test_every_family_is_trained_and_written(stage, model):
    """Two steps move the denoiser and every text encoder; the given VAE lies beside them."""
    folder = stage("base", "made", 2, model, SHIPPED / "tiny-sd15" / "vae")
    after = weights(folder)
    denoiser = "unet" if model == "tiny-sdxl" else "transformer"
    assert {name.split("/")[0] for name in after} == {denoiser, "text_encoder", "text_encoder_2", "vae"}
    torch.manual_seed(0)
    fresh = FAMILIES[model](models.tokenizer(folder / "again"))
    for part in (denoiser, "text_encoder", "text_encoder_2"):
        before = {f"{part}.{key}": value for key, value in fresh.get_submodule(part).state_dict().items()}
        now = next(value for name, value in after.items() if name.startswith(f"{part}/"))
        moved = [
            key
            for key, value in now.items()
            if not torch.equal(value, before[f"{part}.{key}"].to(value.dtype))
        ]
        assert len(moved) > len(now) / 2, part


def test_heads_of_the_transformer_begin_at_a_neighbour():
    """The token at row 3, column 4: where six heads of every block look most, before anything is learnt."""
    torch.manual_seed(0)
    transformer = models.transformer()
    places = torch.nn.functional.layer_norm(transformer.pos_embed(torch.zeros(1, 8, 8, 8))[0], (128,))
    for number, block in enumerate(transformer.transformer_blocks):
        attention = block.attn
        query, key = (
            norm(linear(places).view(64, 8, 16))
            for norm, linear in ((attention.norm_q, attention.to_q), (attention.norm_k, attention.to_k))
        )
        most = torch.einsum("hd,khd->hk", query[3 * 8 + 4], key)[:6].argmax(1)
        wanted = [local_attention.NEIGHBOURS[(6 * number + head) % 8] for head in range(6)]
        assert [(int(at) // 8 - 3, int(at) % 8 - 4) for at in most] == wanted


def test_the_transformer_begins_as_nothing():
    """Modulations and the output are zero: blocks hand on what they get, and the velocity is 0."""
    transformer = models.transformer()
    output = transformer(
        torch.randn(2, 8, 8, 8), torch.randn(2, 20, 256), torch.randn(2, 192), torch.tensor([1.0, 999.0])
    )
    assert output.sample.abs().max() == 0


def test_every_word_is_one_token_in_every_process(tmp_path):
    made = models.tokenizer(tmp_path)
    assert [len(made.tokenize(word)) for word in models.words()] == [1] * len(models.words())
    assert made.tokenize("zebra") == ["z", "e", "b", "r", "a</w>"]
    assert made("a star").input_ids == [135, 26, made.convert_tokens_to_ids("star</w>"), 136]


def test_rate_warms_up_stays_and_decays():
    rates = [train.learning_rate(step, 1000) for step in (0, 49, 500, 699, 850, 999)]
    assert rates == pytest.approx([0.02, 1, 1, 1, 0.5, 0.01])


def test_near_misses_are_misses():
    rng = np.random.default_rng(0)
    scenes = [sample_scene("train", rng, task) for task in TASKS for _ in range(10)]
    broken = [judge(scene, draw(pairs.altered(scene, rng), rng)).correct for scene in scenes]
    assert np.mean(broken) < 0.05


def judgement(preference, aesthetics=0.5, words=0.5, alignment=0.5) -> Judgement:
    return Judgement(False, alignment, words, aesthetics, preference)


def test_labels_lean_to_the_better_picture_and_gaps_are_the_winners():
    """A lead of 0.4 with logistic noise of scale 1/5, a tie within 0.08: seen ahead with probability
    sigmoid(5 (0.4 - 0.08)) = 0.832, behind with sigmoid(5 (-0.4 - 0.08)) = 0.083, so it wins 0.909 of the rest."""
    better, worse = judgement(2.4, aesthetics=0.9, words=0.2), judgement(2.0, aesthetics=0.6, words=0.3)
    rng = np.random.default_rng(0)
    rows = [pairs.labelled(better, worse, rng) for _ in range(4000)]
    decided = [row for row in rows if row["label_0"] != 0.5]
    wins = [row for row in decided if row["label_0"] == 1]
    assert len(wins) / len(decided) == pytest.approx(0.832 / (0.832 + 0.083), abs=0.015)
    assert (wins[0]["aesthetic_gap"], wins[0]["clipscore_gap"]) == (0.3, -0.1)
    lost = next(row for row in decided if row["label_0"] == 0)
    assert (lost["aesthetic_gap"], lost["clipscore_gap"]) == (-0.3, 0.1)
    tie = next(row for row in rows if row["label_0"] == 0.5)
    assert (tie["aesthetic_gap"], tie["clipscore_gap"]) == (0.3, 0.1)


def test_rows_pair_every_two_images_of_a_prompt_once():
    rng = np.random.default_rng(0)
    prompt = parse("a red star").text
    rows = pairs.rows("train", prompt, list("wxyz"), [judgement(float(i)) for i in range(4)], rng)
    assert {frozenset((row["image_0_uid"], row["image_1_uid"])) for row in rows} == {
        frozenset(pair) for pair in ("wx", "wy", "wz", "xy", "xz", "yz")
    }
    assert all(set(row) == set(COLUMNS) and row["num_example_per_prompt"] == 6 for row in rows)
