"""The evaluator from settings to scores: on a small random detector and CLIP, and where something is missing."""

from types import SimpleNamespace

import made_geneval_scorer
import made_mask2former as made
import numpy as np
import pandas as pd
import pytest
import torch

from evaluators.geneval import detector, settings
from evaluators.geneval.live import ObjectJudge
from evaluators.geneval.rules import Detections
from evaluators.geneval.settings import GenEval, GenEvalFAIR
from lpobench.data import geneval
from lpobench.plugin import MissingAsset, UserError
from lpobench.types import Evaluator, Prompt

CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def small_images():
    """The official size takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(detector, "SCALE", made.SCALE)
        yield


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """What `made_geneval_scorer` makes: mmdet's file, the folder made of it, and a CLIP."""
    root = tmp_path_factory.mktemp("geneval")
    made_geneval_scorer.geneval(root)
    return root


@pytest.fixture(scope="module")
def judge(places):
    return GenEval(detector=str(places / "detector"), clip=str(places / "clip")).load(CPU, torch.float32)


def prompt(name, task="single_object", **demands):
    tags = geneval.tags_of(geneval.Demands(task, "", (geneval.Clause(name, 1, **demands),)))
    return Prompt(f"a photo of a {name}", "id", tags)


def test_images_are_right_where_the_detector_finds_what_is_asked_for(judge):
    image = made.image(*made.SIZES[2], 2)
    found = {geneval.NAMES[label] for label in judge.detector.find(image, 0.3).labels}
    assert 0 < len(found) < 10
    asked = [*sorted(found), "person", "toothbrush"]
    images = torch.from_numpy(image).movedim(-1, 0)[None].expand(len(asked), -1, -1, -1) / 255
    prompts = [prompt(name) for name in asked]
    scores = judge.score(images, prompts)
    assert scores.to_dict("list") == {"geneval": [1.0] * len(found) + [0.0, 0.0]}
    backwards = judge.score(images, prompts[::-1])
    pd.testing.assert_frame_equal(scores, backwards[::-1].reset_index(drop=True))
    pd.testing.assert_frame_equal(scores[1:2].reset_index(drop=True), judge.score(images[1:2], prompts[1:2]))


def test_exactly_one_colour_is_right(judge):
    image = made.image(*made.SIZES[2], 2)
    name = geneval.NAMES[judge.detector.find(image, 0.3).labels[0]]
    prompts = [prompt(name, "colors", colour=colour) for colour in geneval.COLOURS]
    images = torch.from_numpy(image).movedim(-1, 0)[None].expand(10, -1, -1, -1) / 255
    assert judge.score(images, prompts)["geneval"].sum() == 1


def test_the_contract(judge):
    assert isinstance(judge, Evaluator)
    assert judge.version == GenEval.version
    assert list(judge.metrics) == ["geneval"]
    assert list(GenEvalFAIR.metrics) == ["geneval_fair"]
    assert GenEval.suite == GenEvalFAIR.suite == "geneval"


class Seen:
    """A detector that finds a cat of the image's brightness."""

    def find(self, image, threshold):
        score = np.float32([image.max() / 255])
        return Detections(np.array([15]), score, np.float32([[0, 0, 2, 2]]), np.ones((1, 2, 2), bool))


def test_counting_is_judged_at_its_own_threshold():
    judge = ObjectJudge(Seen(), SimpleNamespace(name=print), "1", GenEval.metrics)
    demands = geneval.Demands("counting", "", (geneval.Clause("cat", 1),), (geneval.Clause("cat", 2),))
    images = torch.tensor([0.8, 1.0]).view(2, 1, 1, 1).expand(2, 3, 2, 2)
    assert judge.score(images, [Prompt("", "", geneval.tags_of(demands))] * 2)["geneval"].tolist() == [0, 1]
    assert judge.score(images, [prompt("cat")] * 2)["geneval"].tolist() == [1, 1]


def test_other_prompts_are_refused_before_an_image_is_looked_at():
    with pytest.raises(UserError, match='GenEval knows no demands for the prompt "three red stars"'):
        ObjectJudge(None, None, "1", GenEval.metrics).score(
            torch.zeros(1, 3, 2, 2), [Prompt("three red stars", "")]
        )


def test_fairs_detector_is_another_metric(places):
    fair = GenEvalFAIR(detector=str(places / "detector"), clip=str(places / "clip")).load(CPU, torch.float32)
    assert list(fair.score(torch.zeros(1, 3, 40, 40), [prompt("cat")])) == ["geneval_fair"]


def test_what_is_missing_is_told_in_a_line(monkeypatch, tmp_path, places):
    for name in ("LPOBENCH_ASSETS", "HF_HUB_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / name))
    for cls, name, licence in (
        (GenEval, "geneval-detector", "Apache-2.0"),
        (GenEvalFAIR, "geneval-detector-fair", ""),
    ):
        with pytest.raises(
            MissingAsset, match=rf"no {name} on this machine \(.* size .*, licence {licence}.*\); .*"
        ) as no:
            cls().assets()
        assert f"`lpobench download {name}`" in str(no.value)
        assert "\n" not in str(no.value)
    with pytest.raises(MissingAsset, match=r"no clip-vit-l14 on this machine .*1.71 GB"):
        GenEval(detector=str(places / "detector.pth")).assets()
    monkeypatch.setattr(settings, "find_spec", lambda name: None)
    with pytest.raises(MissingAsset, match=r"needs opencv-python-headless.*: install lpobench\[geneval\]"):
        GenEval(detector=str(places / "detector.pth"), clip=str(places / "clip")).assets()
