"""A checkpoint in the method's place: scored against the base, named in record and table, refused early."""

import json

import pandas as pd
import pytest
import torch
from made import NAMES, Toy, register_toys, toy_spec
from painted import generate
from pydantic import ValidationError

from backbones.gaussian import Gaussian
from lpobench.checkpoints import label_of, locate_checkpoint
from lpobench.cli import main
from lpobench.data.pairs.autoencoder import as_images
from lpobench.plugin import MissingAsset, UserError
from lpobench.prepare import prompts_of
from lpobench.records.record import RunRecord, read_all
from lpobench.report.tables import to_markdown
from lpobench.run import cut, execute
from lpobench.sampling import Policy, VariancePreserving
from lpobench.scoring.evaluate import score_images, to_bytes
from lpobench.spec import LoraSettings, RunSpec, load_spec


class Movable(Gaussian):
    """A checkpoint is a text file with a number, by which mu is moved."""

    def load_checkpoint(self, path, *, check_only=False):
        moved = float(path.read_text())
        if moved > 100:
            raise UserError(f"checkpoint {path}: too large for toy")
        if not check_only:
            self.denoiser.shift = torch.nn.Parameter(torch.tensor([moved]), requires_grad=False)
        return f"mu moved by {moved:g}"


class MovableToy(Toy):
    """The Gaussian backbone, which reads checkpoints."""

    def load(self, device, dtype):
        return Movable(VariancePreserving.scaled_linear(), self.scale, dtype)


@pytest.fixture
def make_spec(monkeypatch, tmp_path):
    monkeypatch.setitem(NAMES, "backbones", {"toy": MovableToy})
    register_toys(monkeypatch)
    (tmp_path / "brighter.txt").write_text("0.5")

    def make(checkpoint=tmp_path / "brighter.txt", **changes):
        chosen = {"method": {"name": "none"}, "reward": None}
        chosen |= {} if checkpoint is None else {"checkpoint": str(checkpoint)}
        return toy_spec(tmp_path, **{**chosen, **changes})

    return make


@pytest.fixture
def out(tmp_path):
    return tmp_path / "runs"


def test_a_checkpoint_is_scored_against_the_base(make_spec, out):
    record = execute(make_spec(), out)
    assert record.metrics["light"].difference > 0.05
    assert record.metrics["light"].win_rate == 1
    assert (record.method, record.trained, record.variant) == ("none", False, "brighter.txt")
    assert record.checkpoint.loaded == "mu moved by 0.5"
    assert len(record.checkpoint.sha256) == 64
    assert list(record.costs) == [
        "load", "generate none", "evaluate none", "generate brighter.txt", "evaluate brighter.txt",
    ]  # fmt: skip
    assert set(record.files) == {"scores.csv", "grid.png"}
    assert RunRecord.read(record.folder) == record
    assert record.id.startswith("toy-brighter.txt-s0-")
    assert RunSpec.model_validate(record.spec) == make_spec()


def test_the_table_names_it(make_spec, out):
    lines = to_markdown(execute(make_spec(), out)).splitlines()
    assert lines[0].strip() == "brighter.txt on toy"
    assert lines[1].strip() == "mu moved by 0.5"
    assert "; nothing trained; " in lines[2]
    assert any(line.startswith("| metric | none | brighter.txt | difference") for line in lines)


def test_it_shares_the_base_of_runs_that_train(make_spec, out):
    trained = execute(make_spec(None, method={"name": "lpo", "min_gap": (0, 0)}, reward="brighter"), out)
    record = execute(make_spec(), out)
    assert record.base == trained.base
    assert record.reused == ("generate none", "evaluate none")
    assert record.metrics["light"].mean_base == trained.metrics["light"].mean_base


def test_a_reward_that_nobody_scored_the_base_with_is_scored_alone(make_spec, out):
    """The base's images and their `light` come from the first run."""
    first = execute(make_spec(), out)
    trained = execute(make_spec(None, method={"name": "lpo", "min_gap": (0, 0)}, reward="brighter"), out)
    assert trained.reused == ("generate none",)
    assert trained.metrics["light"].mean_base == first.metrics["light"].mean_base
    assert list(trained.metrics) == ["light", "bright", "brighter"]
    assert execute(
        make_spec(None, seed=1, method={"name": "lpo", "min_gap": (0, 0)}, reward="brighter"), out
    ).reused


def test_another_file_under_the_same_path_is_scored_anew(make_spec, out, tmp_path):
    first = execute(make_spec(), out)
    assert execute(make_spec(), out) == first
    (tmp_path / "brighter.txt").write_text("-0.5")
    again = execute(make_spec(), out)
    assert again.folder == first.folder
    assert again.metrics["light"].difference < 0


def test_what_does_not_fit_is_refused_before_anything_is_made(make_spec, out, tmp_path):
    (tmp_path / "large.txt").write_text("1000")
    with pytest.raises(UserError, match=r"large\.txt: too large for toy"):
        execute(make_spec(tmp_path / "large.txt"), out)
    with pytest.raises(MissingAsset, match=r"no checkpoint at .*absent\.safetensors"):
        execute(make_spec(tmp_path / "absent.safetensors"), out)
    assert not out.exists()


def test_a_backbone_without_weights_refuses():
    with pytest.raises(UserError, match="the gaussian backbone has no weights to replace"):
        Gaussian(VariancePreserving.scaled_linear()).load_checkpoint("x", check_only=True)


def test_a_method_that_trains_is_refused(make_spec):
    with pytest.raises(
        ValidationError, match="is scored as it is, method lpo would train: use --method none"
    ):
        make_spec(method={"name": "lpo"}, reward="brighter")


def test_an_empty_name_is_refused(make_spec):
    with pytest.raises(ValidationError, match="checkpoint"):
        make_spec("")


# Names and places


@pytest.mark.parametrize(
    ("checkpoint", "label"),
    [
        ("lpo-sdxl", "lpo-sdxl"),
        ("runs/tiny-sd15-lpo-s0-0123abcd/lora", "tiny-sd15-lpo-s0-0123abcd"),
        ("a/lora/pytorch_lora_weights.safetensors", "a"),
        ("/models/mine.safetensors", "mine"),
        ("v1.5/mine.pt", "mine"),
        ("/unet", "unet"),
        ("lora", "lora"),
        ("x/none", "x/none"),
        ("organisation/name", "name"),
    ],
)
def test_labels(checkpoint, label):
    assert label_of(checkpoint) == label


def test_a_path_that_exists_is_meant_before_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lpo-sdxl").mkdir()
    assert locate_checkpoint("lpo-sdxl").is_dir()


@pytest.mark.parametrize("checkpoint", ["/absent/lora", "absent.safetensors", "organisation/absent"])
def test_what_is_not_here_is_missing(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(MissingAsset, match=checkpoint):
        locate_checkpoint(checkpoint)


def test_an_unknown_name_gets_a_hint(monkeypatch):
    from lpobench.data import assets

    monkeypatch.setattr(assets, "names", lambda kind: ["lpo-sd15", "lpo-sdxl"])
    with pytest.raises(UserError, match=r'unknown checkpoint "lpo-sdlx".*did you mean "lpo-sdxl"'):
        locate_checkpoint("lpo-sdlx")


# The command line


@pytest.fixture
def plan(capsys):
    """The plan of `lpobench run --dry-run ...` and what was said."""

    def dry_run(*words):
        code = main(["run", "--dry-run", "--json", *words])
        out, err = capsys.readouterr()
        return code, json.loads(out) if out else None, err

    return dry_run


@pytest.mark.parametrize("words", [(), ("--method", "none")])
def test_the_flag_keeps_the_recipe_and_replaces_its_method(plan, tmp_path, words):
    (tmp_path / "mine.safetensors").write_bytes(b"")
    code, found, err = plan("--checkpoint", str(tmp_path / "mine.safetensors"), *words)
    spec = found["spec"]
    recipe = load_spec("tiny-sd15-lpo")
    assert (code, spec["method"], spec["reward"]) == (0, {"name": "none"}, None)
    assert spec["eval"] == recipe.eval.model_dump(mode="json")
    assert (found["updates"], found["images"]) == (0, 2 * recipe.eval.num_prompts)
    assert err.startswith("--checkpoint: method lpo is replaced; its settings are dropped: ")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("--checkpoint x --method lpo", 2, "checkpoint x is scored as it is, method lpo would train"),
        ("--checkpoint /absent/x", 3, "no checkpoint at /absent/x"),
        ("--checkpoint absent", 2, 'unknown checkpoint "absent"'),
        ("--set checkpoint=x", 2, "checkpoint x is scored as it is, method lpo would train"),
    ],
)
def test_one_line_and_the_documented_code(capsys, tmp_path, words, code, message):
    assert main(["run", *words.split(), "--out", str(tmp_path / "runs")]) == code
    last = capsys.readouterr().err.splitlines()[-1]
    assert message in last
    assert not (tmp_path / "runs").exists()


# The embedded model


def test_an_exported_lora_is_scored_as_the_policy_that_it_was(tmp_path, capsys):
    """Adapters drawn at random: exported, named on the command line, and the same pictures come out."""
    words = ["--limit", "2", "--set", "eval.num_steps=2", "--set", "eval.grid_prompts=2"]
    spec = load_spec("tiny-sd15-lpo", overrides=words[3::2])
    backbone = spec.backbone.load(torch.device("cpu"), torch.float32)
    policy = Policy(backbone, spec.sampling, LoraSettings(rank=2))
    generator = torch.Generator().manual_seed(0)
    for adapter in policy.trained:
        adapter.data.normal_(std=0.1, generator=generator)
    backbone.export_lora(tmp_path / "drawn" / "lora")

    out = tmp_path / "runs"
    assert main(["run", "--checkpoint", str(tmp_path / "drawn" / "lora"), "--out", str(out), *words]) == 0
    assert "drawn on tiny-sd15" in capsys.readouterr().out
    [record] = read_all(out)
    assert record.checkpoint.loaded.startswith("LoRA on 56 layers, rank 2, alpha 2")
    _, prompts = prompts_of(cut(spec, 2))
    judge = spec.evaluators[0].load(torch.device("cpu"), torch.float32)
    batches = generate(policy, prompts, spec.eval, reference=False)
    scored = pd.concat(
        [score_images("shapes", judge, as_images(to_bytes(b.images)), b.prompts) for b in batches]
    )
    for metric in judge.metrics:
        assert record.metrics[metric].mean_method == pytest.approx(scored[metric].mean(), abs=2e-3)
    assert record.metrics["preference"].difference != 0
