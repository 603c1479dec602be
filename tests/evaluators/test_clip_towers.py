"""One CLIP in memory for all who look through it, and gone with the last."""

import gc
import weakref
from pathlib import Path

import made_clip
import made_scorers
import pytest
import torch
from safetensors.torch import load_file, save_file

from evaluators._clip import tower as module
from evaluators._clip.tower import tower
from evaluators._pixels import Preparation
from evaluators.aesthetic import Aesthetic
from evaluators.clipscore import ClipScoreL
from lpobench.plugin import MissingAsset, UserError
from lpobench.types import Prompt

CPU, FLOAT = torch.device("cpu"), torch.float32


@pytest.fixture
def folder(tmp_path):
    return made_clip.folder(tmp_path / "clip")


def test_two_metrics_of_the_same_weights_share_the_tower_and_its_work(tmp_path, monkeypatch):
    aesthetic = made_scorers.aesthetic(tmp_path)
    loaded, looked = [], []
    read = module._read
    monkeypatch.setattr(module, "_read", lambda *places: loaded.append(places) or read(*places))
    scorers = [settings.load(CPU, FLOAT) for settings in (aesthetic, ClipScoreL(weights=aesthetic.clip))]
    assert len(loaded) == 1
    shared = tower(Path(aesthetic.clip), FLOAT, CPU)
    shared.model.vision_model.register_forward_hook(lambda *_: looked.append(1))
    images, prompts = made_scorers.images((230, 230), 0, 1), [Prompt("a", ""), Prompt("b", "")]
    for scorer in scorers:
        scorer.score(images, prompts)
    assert len(looked) == 1
    scorers[0].score(images + 0, prompts)
    assert len(looked) == 2


def test_a_tower_goes_with_the_last_who_holds_it(folder):
    held = tower(folder, FLOAT, CPU)
    assert tower(folder, FLOAT, CPU) is held
    assert tower(folder.parent / "." / folder.name, FLOAT, CPU) is held
    assert tower(folder, torch.bfloat16, CPU) is not held
    gone = weakref.ref(held)
    del held
    gc.collect()
    assert gone() is None
    assert not module._HELD


def test_images_that_were_changed_are_looked_at_again(folder):
    clip, prepare = tower(folder, FLOAT, CPU), Preparation(16, "floor")
    images = torch.rand(2, 3, 20, 16)
    first = clip.embed_images(images, prepare, 2)
    assert clip.embed_images(images, prepare, 2) is first
    other = clip.embed_images(images, Preparation(16, "floor", (0.0,) * 3), 2)
    assert not torch.equal(other, first)
    images.mul_(0.5)
    assert not torch.equal(clip.embed_images(images, prepare, 2), first)
    with torch.inference_mode():
        again = images.clone()
        assert clip.embed_images(again, prepare, 2) is not clip.embed_images(again, prepare, 2)


def test_embeddings_are_units(folder):
    clip = tower(folder, FLOAT, CPU)
    seen = clip.embed_images(torch.rand(3, 3, 16, 16), Preparation(16, "floor"), 2)
    read = clip.embed_tokens(torch.full((2, 12), clip.model.config.text_config.eos_token_id))
    for units in (seen, read):
        torch.testing.assert_close(units.norm(dim=-1), torch.ones(len(units)))
    assert clip.scale == pytest.approx(clip.model.logit_scale.exp().item())


@pytest.mark.parametrize("spoil", ["lost", "size", "cut", "empty", "none"])
def test_weights_that_do_not_fit_are_told_in_one_line(folder, spoil, capfd):
    file = folder / "model.safetensors"
    weights = load_file(file)
    if spoil == "lost":
        del weights["visual_projection.weight"]
    if spoil == "size":
        weights["visual_projection.weight"] = torch.ones(3, 3)
    save_file(weights, file, metadata={"format": "pt"})
    if spoil in ("cut", "empty"):
        file.write_bytes(file.read_bytes()[: 1000 * (spoil == "cut")])
    if spoil == "none":
        file.unlink()
    words = {"lost": "visual_projection.weight is missing or of another size", "cut": "cannot be read"}
    words |= {"size": words["lost"], "empty": words["cut"], "none": "has no model.safetensors or"}
    capfd.readouterr()
    with pytest.raises(MissingAsset if spoil == "none" else UserError, match=words[spoil]) as caught:
        tower(folder, FLOAT, CPU)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_an_older_file_will_do(folder):
    """.bin, with the buffers that older versions of transformers saved."""
    weights = load_file(folder / "model.safetensors")
    weights["text_model.embeddings.position_ids"] = torch.arange(12)[None]
    images, prepare = torch.rand(1, 3, 16, 16), Preparation(16, "floor")
    wanted = tower(folder, FLOAT, CPU).embed_images(images, prepare, 1)
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    gc.collect()
    assert torch.equal(tower(folder, FLOAT, CPU).embed_images(images, prepare, 1), wanted)


def test_the_settings_name_one_clip():
    assert Aesthetic().clip == ClipScoreL().weights == "clip-vit-l14"
