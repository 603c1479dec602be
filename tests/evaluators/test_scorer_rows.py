"""What all neural scorers keep: a score is a function of the image, the prompt and the settings, to the last bit."""

import json
from pathlib import Path

import made_scorers
import pytest
import torch

from lpobench.plugin import MissingAsset
from lpobench.scoring import worker
from lpobench.types import Evaluator, Prompt

CPU, FLOAT = torch.device("cpu"), torch.float32
NAMES = list(made_scorers.MAKERS)
SAME = {"clipscore_l", "clipscore_h", "hpsv21", "vqascore_xl"}
"""Differ from another in their defaults alone."""


@pytest.mark.parametrize("name", [name for name in NAMES if name not in SAME])
def test_scores_do_not_depend_on_what_else_is_scored(name, tmp_path):
    live = made_scorers.MAKERS[name](tmp_path).model_copy(update={"batch_size": 3}).load(CPU, FLOAT)
    assert isinstance(live, Evaluator)
    images = made_scorers.images((64, 48), *range(5))
    prompts = [Prompt(text, "") for text in ("a red star", "", "two dogs", "a red star", "x " * 50)]
    whole = live.score(images, prompts)[name]
    metric = live.metrics[name]
    assert whole.between(metric.low, metric.high).all()
    assert whole.nunique() == 5
    backwards = live.score(images.flip(0), prompts[::-1])[name]
    assert whole.tolist() == backwards[::-1].tolist()
    again = made_scorers.MAKERS[name](tmp_path).model_copy(update={"batch_size": 3}).load(CPU, FLOAT)
    alone = [again.score(images[i : i + 1], prompts[i : i + 1])[name][0] for i in (4, 1)]
    assert alone == [whole[4], whole[1]]


@pytest.mark.parametrize("name", NAMES)
def test_each_has_a_metric_of_its_own_and_says_what_it_is(name, tmp_path):
    settings = type(made_scorers.MAKERS[name](tmp_path))()
    (metric,) = settings.metrics
    assert metric == name
    assert settings.metrics[metric].unit
    assert settings.metrics[metric].source
    assert settings.version
    assert settings.licence
    assert json.loads(settings.model_dump_json())["dtype"] == "released"


@pytest.mark.parametrize("name", NAMES)
def test_missing_files_are_one_line_before_anything_is_read(name, tmp_path, monkeypatch):
    settings = type(made_scorers.MAKERS[name](tmp_path / "made"))()
    for variable in ("LPOBENCH_ASSETS", "HF_HUB_CACHE", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / "nothing"))
    monkeypatch.setattr("lpobench.data.shipped.ROOT", tmp_path)
    with pytest.raises(MissingAsset) as caught:
        settings.load(CPU, FLOAT)
    assert "\n" not in str(caught.value)
    assert name == "clipscore_tiny" or "`lpobench download " in str(caught.value)


@pytest.mark.parametrize("name", [name for name in NAMES if made_scorers.OFFICIAL.get(name)])
def test_official_code_is_told_where_the_same_files_are(name, tmp_path):
    settings = made_scorers.MAKERS[name](tmp_path)
    assert settings.official == made_scorers.OFFICIAL[name]
    assert settings.official in worker.names()
    options = settings.official_options()
    assert json.loads(json.dumps(options)) == options
    assert all(Path(place).exists() for option, place in options.items() if option != "model")


def test_what_it_computes_in():
    """Settings that were made by their defaults alone, on a CPU and on a GPU."""
    kinds = (made_scorers.HPSv2, made_scorers.HPSv21, made_scorers.VQAScore, made_scorers.VQAScoreXL)
    kinds += (
        made_scorers.PickScore,
        made_scorers.ImageReward,
        made_scorers.Aesthetic,
        made_scorers.ClipScore,
    )
    assert {kind().torch_dtype(CPU) for kind in kinds} == {torch.float32}
    on_gpu = [kind().torch_dtype(torch.device("cuda")) for kind in kinds]
    assert on_gpu == [torch.float16] * 2 + [torch.bfloat16] * 2 + [torch.float32] * 4
    told = made_scorers.VQAScore(dtype="float32")
    assert told.torch_dtype(torch.device("cuda")) == torch.float32
