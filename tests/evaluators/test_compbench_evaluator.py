"""T2I-CompBench as an evaluator: its tools, small weights, and a stand-in for UniDet's code."""

import sys

import made_scorers
import numpy as np
import pytest
import seeded
import torch
from made_compbench import compbench

from evaluators.t2i_compbench.detections import Detections
from evaluators.t2i_compbench.judge import CompositionJudge, Tools, product
from evaluators.t2i_compbench.settings import T2ICompBench
from evaluators.t2i_compbench.unidet import UniDet, read
from lpobench.data.t2i_compbench import CATEGORIES, Demand, Parses
from lpobench.plugin import MissingAsset, UserError
from lpobench.problems import SettingsError
from lpobench.scoring.worker import WorkerError
from lpobench.slots import make
from lpobench.types import Evaluator, Prompt

CPU = torch.device("cpu")
BOX, RIGHT = (0.0, 0.0, 100.0, 100.0), (200.0, 0.0, 300.0, 100.0)


class Asked:
    """Tools that note what they are asked, and give fixed answers."""

    def __init__(self):
        self.asked = []
        self.answers = Detections(("dog", "cat"), (0.8, 0.6), (BOX, RIGHT))

    def agree(self, images, questions):
        self.asked.append((tuple(images.shape), questions))
        return [[0.50004, 0.25006][: len(asked)] for asked in questions]

    def __call__(self, images, texts):
        self.asked.append(texts)
        return torch.tensor([0.25])

    def find(self, frames):
        self.asked.append([frame.shape for frame in frames])
        return [self.answers]

    def map(self, picture):
        self.asked.append(picture.shape)
        depth = torch.zeros(479, 479)
        depth[:100] = 1
        return depth


@pytest.fixture
def tools():
    return Tools(*(Asked() for _ in range(5)))


def judge(tools, categories=CATEGORIES):
    return CompositionJudge(tools, categories, "1", T2ICompBench.metrics)


def prompt(category, **what):
    return Prompt("text", "id", Demand(category, **what).tags)


def score(live, *prompts, size=(64, 64)):
    images = torch.from_numpy(seeded.picture(*size)).permute(2, 0, 1)[None] / 255
    return live.score(images.expand(len(prompts), -1, -1, -1), list(prompts))["t2i_compbench"].tolist()


def test_each_category_asks_its_tools(tools):
    two = {"objects": ("dog", "cat")}
    prompts = (
        prompt("color", phrases=("a red hat", "a key")),
        prompt("spatial", relation="on the left of", **two),
        prompt("3d_spatial", relation="in front of", **two),
        prompt("numeracy", counts=(1, 2), **two),
        prompt("non_spatial", text="A child runs."),
    )
    # 0.5 * 0.2501 = 0.12505, which in single precision is a little less; 0.25 * 1.4 + 0.5; no overlap; 1/2 + 1/4
    assert score(judge(tools), *prompts) == pytest.approx([0.125, 0.85, 0.35, 0.75, 0.25], abs=1e-9)
    assert tools.questioner.asked == [((1, 3, 64, 64), [["a red hat?", "a key?"]])]
    assert tools.planar.asked == [[(479, 479, 3)]]
    assert tools.detector.asked == [[(479, 479, 3)]] * 2
    assert tools.depth.asked == [(64, 64, 3)], "the depth is of the picture, not of its frame"
    assert tools.similarity.asked == [["A child runs."]]


def test_complex_is_the_mean_of_its_parts(tools):
    whole = {"phrases": ("a dog",), "objects": ("dog", "cat"), "relation": "near", "text": "dog"}
    prompts = [
        prompt("complex", parts=parts, **whole)
        for parts in (("attribute", "spatial"), ("attribute", "action"), ("attribute", "spatial", "action"))
    ]
    assert score(judge(tools), *prompts) == pytest.approx([(0.5 + 0.85) / 2, 0.375, 1.6 / 3])
    assert len(tools.planar.asked) == 2


def test_probabilities_are_rounded_as_the_official_files_have_them():
    assert product([]) == 1
    assert product([0.33335]) == 0.3333, "the double below 0.33335"
    assert product([0.5, 0.5, 0.5, 0.5]) == 0.0625
    assert product([0.00004, 1.0]) == 0
    assert product([0.9999] * 8) == 0.9992


def test_prompts_of_other_suites_and_categories_are_refused(tools):
    with pytest.raises(UserError, match='"a photo of a bench" is no prompt of T2I-CompBench'):
        score(judge(tools), Prompt("a photo of a bench", "id"))
    with pytest.raises(
        UserError, match=r'"text" is a color prompt .* t2i_compbench\.categories has shape, numeracy'
    ):
        score(judge(tools, ("shape", "numeracy")), prompt("color"))


def test_categories_are_chosen_by_name():
    assert T2ICompBench(categories="color").categories == ("color",)
    for wrong in ({"categories": ["colour"]}, {"categories": []}):
        with pytest.raises(SettingsError, match=r"should be some of color, shape, .*, got (colour|none)"):
            make("evaluators", {"name": "evaluators.t2i_compbench.settings:T2ICompBench", **wrong})


@pytest.mark.parametrize(
    ("category", "missing", "how"),
    [
        ("color", "blip-vqa-official", "`lpobench download blip-vqa-official` fetches it"),
        ("spatial", "unidet-rs200", "size unknown"),
        ("numeracy", "unidet-r50", "get it from https://drive.google.com/"),
        ("non_spatial", "clip-vit-b32", "size 605 MB"),
    ],
)
def test_missing_weights_are_told_in_one_line(tmp_path, monkeypatch, category, missing, how):
    monkeypatch.setenv("LPOBENCH_ASSETS", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    with pytest.raises(MissingAsset, match=f"no {missing} on this machine") as caught:
        T2ICompBench(categories=category).load(CPU, torch.float32)
    assert how in str(caught.value)
    assert "\n" not in str(caught.value)


def test_only_what_the_categories_need_is_looked_for(tmp_path):
    there = {
        name: str(tmp_path)
        for name in ("blip", "tokenizer", "clip", "depth", "rs200", "r50", "unidet", "detectron2")
    }
    counts = {name: len(T2ICompBench(categories=name, **there).assets()) - 1 for name in CATEGORIES}
    assert counts == {
        **dict.fromkeys(("color", "shape", "texture"), 2),
        **{"spatial": 3, "3d_spatial": 4, "numeracy": 3, "non_spatial": 1, "complex": 6},
    }
    assert len(T2ICompBench(**there).assets()) == 9, "and the table of parses"


# on disk

PREDICTOR = """
from types import SimpleNamespace
import torch

class DefaultPredictor:
    def __init__(self, config):
        assert config.opts[0] == "MODEL.WEIGHTS" and config.opts[2:] == ["MODEL.DEVICE", "cpu"]
        assert config.config_file.endswith("_R50_6x+2x.yaml") and config.confidence_threshold == 0.5
        self.model = Model()

class Model(torch.nn.Module):
    "Finds a cat in red pictures, two dogs in others."
    def forward(self, inputs):
        [given] = inputs
        blue, green, red = given["image"].mean((1, 2)).tolist()
        assert given["image"].shape == (3, given["height"], given["width"])
        boxes = torch.tensor([[0., 0, 100, 100], [200, 0, 300, 100]])
        kinds = torch.tensor([1, 0]) if red > blue else torch.tensor([0, 0])
        seen = SimpleNamespace(tensor=boxes)
        found = SimpleNamespace(pred_boxes=seen, pred_classes=kinds, scores=torch.tensor([0.9, 0.8]))
        return [{"instances": found}]
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Small weights, and folders in the place of UniDet's code and detectron2."""
    root = tmp_path_factory.mktemp("compbench")
    (root / "r50.pth").touch()
    files = {
        "d2/detectron2/__init__.py": "",
        "d2/detectron2/engine/__init__.py": "",
        "d2/detectron2/engine/defaults.py": PREDICTOR,
        "code/experts/__init__.py": "",
        "code/experts/obj_detection/__init__.py": "",
        "code/experts/obj_detection/utils.py": "setup_cfg = lambda given: given",
        "code/experts/obj_detection/configs/Unified_learned_OCIM_R50_6x+2x.yaml": "",
    }
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    (root / "code" / "dataset").mkdir()
    torch.save({"labels": ["dog", "cat"]}, root / "code" / "dataset" / "detection_features.pt")
    unidet = {"rs200": "r50.pth", "r50": "r50.pth", "unidet": "code", "detectron2": "d2"}
    return compbench(root).model_copy(update={name: str(root / place) for name, place in unidet.items()})


def settings(made, *categories, **changes):
    return made.model_copy(update={"categories": categories, **changes})


def test_small_weights_from_disk(made):
    """A published prompt by its text alone; rows do not depend on each other."""
    live = settings(made, "color", "non_spatial").load(CPU, torch.float32)
    assert isinstance(live, Evaluator)
    prompts = [
        Prompt("a green bench and a blue bowl", "a"),
        prompt("color", phrases=("a red cube", "the moon")),
        prompt("non_spatial", text="a red cube"),
    ]
    images = made_scorers.images((80, 64), 1, 2, 3)
    scores = live.score(images, prompts)
    assert list(scores.columns) == ["t2i_compbench"]
    alone = [live.score(images[i : i + 1], prompts[i : i + 1])["t2i_compbench"].item() for i in (2, 0, 1)]
    assert scores["t2i_compbench"].tolist() == [alone[1], alone[2], alone[0]]
    asked = live.tools.questioner.agree(images[:1], [["a green bench?", "a blue bowl?"]])[0]
    assert scores["t2i_compbench"][0] == pytest.approx(asked[0] * asked[1], abs=2e-4)


def test_its_cosine_is_clipscore_s(made):
    from evaluators.clipscore import ClipScore

    images, text = made_scorers.images((80, 64), 1), "a red cube"
    found = (
        settings(made, "non_spatial")
        .load(CPU, torch.float32)
        .score(images, [prompt("non_spatial", text=text)])
    )
    wanted = ClipScore(weights=made.clip).load(CPU, torch.float32).score(images, [Prompt(text, "")])
    assert found["t2i_compbench"].item() == pytest.approx(wanted["clipscore"].item(), abs=1e-6)


def test_another_table_of_parses_is_in_the_version(made, tmp_path):
    shipped = Parses.shipped()
    other = Parses("en_core_web_sm 3.5.0", dict(list(shipped.rows.items())[:1]))
    (tmp_path / "t.tsv").write_text("\n".join(other.lines()) + "\n")
    live = settings(made, "color", parses=tmp_path / "t.tsv").load(CPU, torch.float32)
    assert live.version == "1+en_core_web_sm-3.5.0"
    assert live.parses == other
    with pytest.raises(UserError, match="is no prompt of T2I-CompBench"):
        score(live, prompt("color", phrases=("a cup",)))


def test_unidet_answers_from_a_process_of_its_own(made, monkeypatch):
    monkeypatch.setenv("LPOBENCH_PYTHON_UNIDET", sys.executable)
    live = settings(made, "numeracy", "3d_spatial").load(CPU, torch.float32)
    red, blue = torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 64, 64)
    red[:, 0], blue[:, 2] = 1, 1
    pets = prompt("numeracy", objects=("dog", "cat"), counts=(2, 1))
    assert live.score(torch.cat([red, blue]), [pets, pets])["t2i_compbench"].tolist() == [0.75, 0.5]
    apart = prompt("3d_spatial", objects=("dog", "cat"), relation="behind")
    assert live.score(red, [apart])["t2i_compbench"].item() == pytest.approx(0.25 * 1.7)
    assert "torch" in live.tools.detector.worker.about["versions"]
    live.tools.detector.worker.close()
    with pytest.raises(
        MissingAsset, match=r"no experts/.*RS200_6x\+2x\.yaml in .*code, which should be the folder UniDet"
    ):
        settings(made, "spatial").load(CPU, torch.float32)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ([], "not enough values"),
        ([{"labels": ["a"], "scores": [0.5]}], "KeyError: 'boxes'"),
        ([{"labels": ["a"], "scores": [0.5], "boxes": [[0, 0, 1]]}], "not enough values"),
        ([{"labels": ["a"], "scores": [0.5], "boxes": [[5, 0, 1, 1]]}], "is no box"),
        ([{"labels": ["a", "b"], "scores": [0.5, 0.6], "boxes": [[0, 0, 1, 1]] * 2}], "scores should fall"),
        ([{"labels": ["a"], "scores": [float("nan")], "boxes": [[0, 0, 1, 1]]}], "scores should fall"),
        ([{"labels": [], "scores": [0.5], "boxes": [[0, 0, 1, 1]]}], "0 labels, 1 scores and 1 boxes"),
    ],
)
def test_rubbish_from_a_worker_is_told_in_one_line(answer, why):
    class Rubbish:
        name = "unidet"

        def ask(self, do, images):
            return answer

    with pytest.raises(WorkerError, match="worker unidet answered no detections") as caught:
        UniDet(Rubbish()).find([np.zeros((8, 8, 3), np.uint8)])
    assert why in str(caught.value)
    assert caught.value.exit_code == 4


def test_no_objects_are_an_answer():
    assert read({"labels": [], "scores": [], "boxes": []}) == Detections()
