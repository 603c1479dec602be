"""mmdet's checkpoint as a Hugging Face folder: every name, every shape, and files that are something else."""

import json
import re

import made_mask2former as made
import pytest
import torch
from seeded import golden
from transformers import Mask2FormerForUniversalSegmentation, Swin2SRConfig

from evaluators.geneval import keys, weights
from evaluators.geneval.settings import GenEval
from lpobench.cli import convert as verb
from lpobench.cli import main
from lpobench.plugin import UserError

GOLDEN = golden("geneval_detector")


def checkpoint(path, *, without=(), **changes):
    """As mmdet stores it, with what it keeps besides the weights."""
    state = made.weights(made.expanded(GOLDEN["shapes"], made.SMALL))
    index = "backbone.stages.0.blocks.0.attn.w_msa.relative_position_index"
    state |= {index: torch.zeros(49, 49, dtype=torch.long)} | changes
    state = {name: value for name, value in state.items() if name not in without}
    torch.save({"meta": {"epoch": 50, "CLASSES": ("person", "bicycle")}, "state_dict": state}, path)
    return path


@pytest.fixture(autouse=True)
def by_class(monkeypatch):
    """Not by the name under which the evaluator is registered."""
    monkeypatch.setitem(verb.CONVERTERS, "geneval-detector", f"{GenEval.__module__}:GenEval")


def test_the_official_network_has_the_published_sizes():
    """Swin-S as in mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco.py, and every weight of the network is given."""
    shapes = made.expanded(GOLDEN["full_shapes"], made.FULL)
    on_paper = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    assert (len(shapes), sum(value.numel() for value in on_paper.values())) == (625, 68_739_547)
    config = keys.config_of(on_paper)
    swin = config.backbone_config
    assert (swin.embed_dim, swin.window_size) == (96, 7)
    assert (list(swin.depths), list(swin.num_heads)) == ([2, 2, 18, 2], [3, 6, 12, 24])
    sizes = {"num_queries": 100, "num_labels": 80, "encoder_layers": 6, "decoder_layers": 10}
    sizes |= {"hidden_dim": 256, "feature_size": 256, "mask_feature_size": 256, "num_attention_heads": 8}
    sizes |= {"encoder_feedforward_dim": 1024, "dim_feedforward": 2048}
    assert {name: getattr(config, name) for name in sizes} == sizes
    with torch.device("meta"):
        wanted = Mask2FormerForUniversalSegmentation(config).state_dict()
    found = keys.renamed(on_paper)
    assert {name: value.shape for name, value in found.items()} == {
        name: value.shape for name, value in wanted.items()
    }


def test_downsampling_merges_the_same_neighbours():
    """nn.Unfold stacks a channel's four pixels, rows first; Swin stacks four pixels' channels, columns first."""
    image = torch.randn(1, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    kernel = torch.randn(5, 12, generator=torch.Generator().manual_seed(1))
    theirs = kernel @ torch.nn.Unfold(2, stride=2)(image)[0, :, 0]
    merged = torch.cat([image[0, :, row, column] for column in (0, 1) for row in (0, 1)])
    torch.testing.assert_close(keys._as_merged(kernel) @ merged, theirs)


def test_the_verb_writes_a_folder_that_is_the_file(tmp_path, capsys):
    file, folder = checkpoint(tmp_path / "small.pth"), tmp_path / "out"
    assert main(["convert", "geneval-detector", str(file), "--out", str(folder)]) == 0
    told = capsys.readouterr()
    assert told.out.startswith(f"converted into {folder}; score with it: --set evaluators.")
    assert told.err.startswith(f"not the published weights: {file} has SHA-256 ")
    assert sorted(path.suffix for path in folder.iterdir()) == [".json", ".json", ".safetensors"]
    assert json.loads((folder / "converted.json").read_text())["converted_from"] == "small.pth"
    of_file, of_folder = weights.read_converted(file), weights.read_converted(folder)
    for name, value in of_file.state_dict().items():
        assert torch.equal(of_folder.state_dict()[name], value), name


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"without": ["panoptic_head.query_embed.weight"]}, "queries_embedder.weight is missing"),
        (
            {"without": ["panoptic_head.cls_embed.bias"]},
            "no Mask2Former .* of mmdet 2.x: panoptic_head.cls_embed.bias",
        ),
        ({"panoptic_head.unheard_of": torch.zeros(1)}, "no Mask2Former .*: panoptic_head.unheard_of"),
        ({"panoptic_head.level_embed.weight": torch.zeros(3, 7)}, "small.pth does not fit .*level_embed"),
        (
            {
                f"panoptic_head.cls_embed.{end}": torch.zeros(s)
                for end, s in (("weight", (31, 64)), ("bias", 31))
            },
            "knows 30 classes; GenEval's detector knows COCO's 80",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_named(changes, told, tmp_path):
    with pytest.raises(UserError, match=told) as caught:
        weights.read_converted(checkpoint(tmp_path / "small.pth", **changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (
            ["geneval-detector", "none.pth"],
            3,
            "no file .*none.pth; `lpobench download geneval-detector` fetches it",
        ),
        (["geneval-detector", "torn.pth"], 2, "torn.pth cannot be read"),
        (["geneval-detector", "other.pth"], 2, "no Mask2Former with a Swin backbone of mmdet 2.x"),
        (
            ["geneval-detecto", "other.pth"],
            2,
            'cannot convert "geneval-detecto"; did you mean "geneval-detector"',
        ),
    ],
)
def test_what_cannot_be_converted(words, code, told, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "torn.pth").write_bytes(checkpoint(tmp_path / "x.pth").read_bytes()[:5000])
    torch.save({"state_dict": {"weight": torch.zeros(2)}}, tmp_path / "other.pth")
    assert main(["convert", *words, "--out", "made"]) == code
    [line] = capsys.readouterr().err.splitlines()
    assert re.search(told, line)
    assert not (tmp_path / "made" / "converted.json").exists()


def test_a_folder_of_another_training_is_refused(tmp_path):
    weights._official(checkpoint(tmp_path / "x.pth")).save_pretrained(tmp_path / "fair")
    with pytest.raises(UserError, match=r"fair is no converted detector .*for the evaluator geneval_fair"):
        weights.read_converted(tmp_path / "fair")
    assert weights.read_own(tmp_path / "fair").config.num_labels == 80
    Swin2SRConfig().save_pretrained(tmp_path / "odd")
    with pytest.raises(UserError, match="odd cannot be read"):
        weights.read_own(tmp_path / "odd")
