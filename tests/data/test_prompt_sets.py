"""Known prompt sets, from small stand-ins laid where the assets are looked for."""

import json

import make_pickapic
import pyarrow as pa
import pytest
from pyarrow import parquet as pq

from lpobench.data import prompt_sets
from lpobench.data.prompt_sets import is_published
from lpobench.data.prompts import load_prompts
from lpobench.plugin import MissingAsset, UserError


@pytest.fixture
def assets(tmp_path, monkeypatch):
    """$LPOBENCH_ASSETS, empty."""
    folder = tmp_path / "assets"
    folder.mkdir()
    for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "HF_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LPOBENCH_ASSETS", str(folder))
    return folder


def texts(source, num=None):
    return [prompt.text for prompt in load_prompts(source, "train", num, seed=1)]


@pytest.mark.parametrize("name", [name for name in prompt_sets.SETS if name != "geneval"])  # it is drawn
def test_a_set_that_is_not_here_is_said(assets, name):
    with pytest.raises(MissingAsset, match="lpobench download"):
        load_prompts(name, "eval", None, seed=0)


def test_the_published_training_prompts(assets):
    entries = [{"caption": f"caption {i}", "trainset_idx": 7 * i} for i in range(4000)]
    file = assets / "prompts-4k" / "4k_training_prompts.json"
    file.parent.mkdir()
    file.write_text(json.dumps(entries))
    assert texts("prompts-4k") == [entry["caption"] for entry in entries]
    assert is_published("prompts-4k") is False
    assert is_published("shapes") is None
    file.write_text(json.dumps(entries[1:]))
    with pytest.raises(UserError, match=r"prompts-4k has 3,999 prompts here, should have 4,000"):
        texts("prompts-4k")


def test_the_published_list_is_known_by_the_beginning_of_its_md5(tmp_path, monkeypatch):
    """md5("hello") = 5d41402abc4b2a76b9719d911017c592."""
    (tmp_path / "a.json").write_text("hello")
    assert is_published(str(tmp_path / "a.json")) is False
    monkeypatch.setattr(prompt_sets, "PUBLISHED_MD5", "5d41402a")
    assert is_published(str(tmp_path / "a.json")) is True


def test_a_sample_of_the_training_captions_without_the_held_out_ones(assets, monkeypatch, capsys):
    monkeypatch.setattr(prompt_sets, "TRAIN_PROMPTS", 10)
    folder = assets / "pickapic-v1" / "data"
    make_pickapic.write(folder, 90, held_out=4, damaged={"no caption": 2})
    file = folder / "validation_unique-00000-of-00001.parquet"
    table = pq.read_table(file)
    rows = list(make_pickapic.rows("train", 90, seed=0))
    every = list(dict.fromkeys(row["caption"] for row in rows))
    clash = pa.array([every[0].upper(), every[1], "x", "y"])
    pq.write_table(table.set_column(2, "caption", clash), file)
    drawn = texts("pickapic-train")
    assert len(drawn) == 10
    assert drawn == [text for text in every if text in drawn], "in the order of the data"
    assert not {every[0], every[1]} & set(drawn)
    assert drawn == texts("pickapic-train")
    assert texts("pickapic-train", 3) == [text for text in drawn if text in texts("pickapic-train", 3)]
    assert "left out: 2 rows: caption is missing" in capsys.readouterr().err
    monkeypatch.setattr(prompt_sets, "TRAIN_PROMPTS", 1000)
    with pytest.raises(UserError, match="training captions here, 1,000 are wanted"):
        texts("pickapic-train")


def test_validation_prompts_keep_their_order(assets):
    captions = [f"caption {i}" for i in range(500)]
    folder = assets / "pickapic-v1-prompts" / "data"
    folder.mkdir(parents=True)
    file = folder / "validation_unique-00000-of-00001-ab.parquet"
    pq.write_table(pa.table({"caption": captions, "has_label": [True] * 500}), file)
    assert texts("pickapic-v1-prompts") == captions
    pq.write_table(pa.table({"text": captions}), file)
    with pytest.raises(UserError, match="cannot read the captions of"):
        texts("pickapic-v1-prompts")


def test_hpdv2_styles_are_tasks(assets):
    folder = assets / "hpdv2-prompts"
    folder.mkdir()
    for style in prompt_sets.STYLES:
        (folder / f"{style}.json").write_text(json.dumps([f"{style} {i}" for i in range(800)]))
    prompts = load_prompts("hpdv2-prompts", "eval", None, seed=0)
    assert len(prompts) == 3200
    assert prompts[800].tags == {"task": "concept-art"}
    assert texts("hpdv2-prompts/photo")[:2] == ["photo 0", "photo 1"]


def test_parti_categories_are_tasks(assets):
    file = assets / "partiprompts" / "PartiPrompts.tsv"
    file.parent.mkdir()
    file.write_text(
        'Prompt\tCategory\tChallenge\tNote\na "red" star\tArtifacts\tBasic\t\nbond\tAbstract\tBasic\t\n'
    )
    prompts = load_prompts("partiprompts", "eval", None, seed=0)
    assert [(p.text, p.tags) for p in prompts] == [
        ('a "red" star', {"task": "Artifacts"}),
        ("bond", {"task": "Abstract"}),
    ]
