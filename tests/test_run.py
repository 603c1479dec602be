"""Whole runs, on the Gaussian backbone: what they leave behind, reuse, refuse and survive."""

import json
import os
import shutil
import signal
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from made import register_toys, toy_spec
from PIL import Image

import lpobench.run
from backbones.gaussian import Gaussian
from lpobench.learning.checkpoint import StorageError
from lpobench.lock import run_lock
from lpobench.plugin import UserError
from lpobench.records.compare import comparisons
from lpobench.records.families import families
from lpobench.records.record import RunRecord
from lpobench.report.tables import to_markdown
from lpobench.run import execute, train_reward_only
from lpobench.scoring.generate import Painter
from lpobench.signals import Preempted
from lpobench.spec import RunSpec


@pytest.fixture
def make_spec(monkeypatch, tmp_path):
    register_toys(monkeypatch)
    return partial(toy_spec, tmp_path)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "runs"


def test_a_run_that_trains_all_weights(make_spec, out):
    """It leaves the denoiser and no adapter, says so, and its base is the one that nobody has trained."""
    adapted = execute(make_spec(), out)
    spec = make_spec(train={"parameters": "all", "precision": "bf16"})
    record = execute(spec, out)
    assert set(record.files) - set(adapted.files) == {"denoiser/diffusion_pytorch_model.safetensors"}
    assert set(adapted.files) - set(record.files) == {"lora/pytorch_lora_weights.safetensors"}
    assert (record.spec["train"]["parameters"], record.training["parameters"]) == ("all", 1)
    assert "lora" not in record.spec
    assert "trained: all weights of the denoiser, 0.000 M parameters" in to_markdown(record)
    assert "trained: a LoRA of rank 4, 0.000 M parameters" in to_markdown(adapted)
    assert RunSpec.model_validate(record.spec) == spec
    assert record.base == adapted.base
    assert record.reused == ("generate none", "evaluate none")
    assert record.metrics["light"].difference != 0
    assert len({family.base for family in families([record, adapted])}) == 1
    assert execute(spec, out) == record


def test_the_base_is_painted_with_the_weights_of_before(make_spec, out, tmp_path):
    """After training and after a restore of what was trained: both are there."""
    base = execute(make_spec(method={"name": "none"}, reward=None), tmp_path / "base")
    first = execute(make_spec(train={"parameters": "all"}), out)
    assert first.reused == ()
    assert first.metrics["light"].mean_base == base.metrics["light"].mean_base
    (first.folder / "scores.csv").write_text("")
    shutil.rmtree(out / "cache")
    again = execute(make_spec(train={"parameters": "all"}), out)
    assert (again.training["resumed_from"], again.reused) == (3, ())
    assert (again.metrics, again.files) == (first.metrics, first.files)


def test_a_run_leaves_a_complete_record(make_spec, out, capsys):
    spec = make_spec()
    record = execute(spec, out)
    folder = out / spec.id
    assert capsys.readouterr().out == ""
    assert RunRecord.read(folder) == record
    assert record.complete
    assert set(record.files) == {
        "scores.csv",
        "grid.png",
        "metrics.jsonl",
        "lora/pytorch_lora_weights.safetensors",
    }
    assert RunSpec.model_validate(record.spec) == spec
    assert (record.backbone, record.method, record.reward, record.check) == (
        "toy",
        "lpo",
        "brighter",
        "bright",
    )
    assert list(record.protocol.evaluators) == ["meter", "brighter"]
    assert record.protocol.evaluators["meter"] == "3"
    assert record.scored_by == {"light": "meter", "bright": "meter", "brighter": "brighter"}
    assert record.trained_on == ("brighter",)
    by_t = record.training["rows_by_t"]
    assert sum(by_t.values()) == record.training["collected"]
    assert by_t.keys() <= record.training["thresholds"].keys()
    assert set(record.training["thresholds"].values()) == {0.0}
    assert list(record.costs) == [
        "load",
        "collect",
        "update",
        "checkpoint",
        "export",
        "generate none",
        "evaluate none",
        "generate lpo",
        "evaluate lpo",
    ]
    assert [json.loads(line)["update"] for line in (folder / "metrics.jsonl").open()] == [1, 2, 3]
    assert Image.open(folder / "grid.png").size[1] > 3 * 128


def test_scores_are_paired_rows(make_spec, out):
    """Six prompts, two variants: what the record says can be recomputed from scores.csv."""
    record = execute(make_spec(), out)
    scores = pd.read_csv(record.folder / "scores.csv")
    names = ["variant", "prompt_id", "image", "prompt", "task", "light", "bright", "brighter"]
    assert scores.columns.tolist() == names
    assert scores["variant"].tolist() == ["none"] * 6 + ["lpo"] * 6
    none, lpo = (scores[scores["variant"] == name].reset_index(drop=True) for name in ("none", "lpo"))
    assert (none["prompt_id"] == lpo["prompt_id"]).all()
    light = record.metrics["light"]
    assert light.difference == pytest.approx((lpo["light"] - none["light"]).mean())
    assert light.difference > 0  # the reward prefers brighter images
    assert light.win_rate == 1
    assert record.metrics["brighter"].low > 0  # what it was trained on
    assert light.low <= light.difference <= light.high
    by_task = none.groupby("task")["light"].mean()
    assert {task: g.mean_base for task, g in record.groups["light"].items()} == pytest.approx(
        by_task.to_dict()
    )


def test_denoiser_work_is_counted(make_spec, out):
    """Six images: two batches of four unguided steps; an update is a pass with and one without adapters."""
    costs = execute(make_spec(), out).costs
    for phase in ("generate none", "generate lpo"):
        assert (costs[phase].calls, costs[phase].rows) == (8, 24)
    assert costs["update"].calls == 6
    assert costs["load"].calls == costs["export"].calls == costs["evaluate lpo"].calls == 0


def test_a_complete_run_is_reused(make_spec, out, monkeypatch, capsys):
    spec = make_spec()
    first = execute(spec, out)
    monkeypatch.setattr(lpobench.run, "prepare", None)  # nothing is loaded
    assert execute(spec, out) == first
    assert "is complete already" in capsys.readouterr().err


def test_no_resume_starts_over(make_spec, out):
    spec = make_spec()
    first = execute(spec, out)
    (first.folder / "notes.txt").write_text("mine")
    again = execute(spec, out, resume=False)
    assert again.training["resumed_from"] is None
    assert again.finished > first.finished
    assert (again.metrics, again.groups) == (first.metrics, first.groups)
    assert (again.folder / "notes.txt").exists()


def test_a_damaged_result_is_made_again_without_training_again(make_spec, out):
    first = execute(make_spec(), out)
    (first.folder / "scores.csv").write_text("")
    again = execute(make_spec(), out)
    assert again.training["resumed_from"] == 3
    assert again.metrics == first.metrics
    assert again.costs["update"] == first.costs["update"]  # its cost is not forgotten


def test_seeds_share_the_images_of_the_base(make_spec, out):
    runs = [execute(make_spec(seed=seed), out) for seed in (0, 1)]
    assert [run.reused for run in runs] == [(), ("generate none", "evaluate none")]
    assert runs[1].phases.keys() >= {"generate lpo"}
    assert "generate none" not in runs[1].phases or runs[1].phases["generate none"] == 0
    base = [pd.read_csv(run.folder / "scores.csv").query("variant == 'none'") for run in runs]
    pd.testing.assert_frame_equal(*base)
    (found,) = comparisons(runs)
    together = found.rows[1].entries["light"]
    assert together.difference == pytest.approx(np.mean([run.metrics["light"].difference for run in runs]))


@pytest.mark.parametrize(
    "changes",
    [{"backbone": {"name": "toy", "scale": 0.6}}, {"eval": {"seed": 1}}, {"eval": {"num_steps": 5}}],
)
def test_another_base_is_made_anew(make_spec, out, changes):
    execute(make_spec(), out)
    assert execute(make_spec(**changes), out).reused == ()


def test_batch_size_changes_no_score(make_spec, out, tmp_path):
    one, other = (execute(make_spec(eval={"batch_size": n}), tmp_path / f"runs{n}") for n in (1, 6))
    assert one.metrics["light"].mean_method == pytest.approx(other.metrics["light"].mean_method, abs=1e-6)


def test_limit_cuts_and_is_marked(make_spec, out):
    spec = make_spec()
    record = execute(spec, out, limit=2)
    assert (record.limit, record.training["updates"], record.protocol.num_prompts) == (2, 2, 2)
    assert record.folder.name == f"{spec.id}-limit2"
    assert execute(spec, out).limit is None  # a cut run is not taken for the whole one


def test_the_baseline_trains_nothing(make_spec, out):
    record = execute(make_spec(method={"name": "none"}, reward=None), out)
    assert (record.trained, record.training, record.method) == (False, None, "none")
    assert set(record.files) == {"scores.csv", "grid.png"}
    assert record.metrics["light"].difference == 0
    assert set(pd.read_csv(record.folder / "scores.csv")["variant"]) == {"none"}


def test_no_grid_when_none_is_wanted(make_spec, out):
    assert "grid.png" not in execute(make_spec(eval={"grid_prompts": 0}), out).files


def test_the_grid_shows_every_task(make_spec, out, monkeypatch):
    shown = []
    monkeypatch.setattr(
        "lpobench.conclude.grid", lambda path, columns, captions: shown.append((columns, captions))
    )
    execute(make_spec(), out)
    columns, captions = shown[0]
    assert captions == ["0.1", "0.2", "0.3"]  # tasks b a b: the first of both, then the second of one
    assert [(column.title, column.images.shape, len(column.passed)) for column in columns] == [
        ("none", (3, 4, 4, 3), 3),
        ("lpo", (3, 4, 4, 3), 3),
    ]


def test_a_trained_reward_is_used_and_shared(make_spec, out):
    """Its training turns it round: the same run then learns to be darker."""
    spec = make_spec()
    summary = train_reward_only(spec, out)
    assert (summary["reward"], summary["reused"]) == ("brighter", False)
    record = execute(spec, out, train_reward=True)
    assert record.folder.name == f"{spec.id}-own-reward"
    assert record.trained_reward == os.path.basename(summary["folder"])
    assert 0 < record.reward_seconds < 60  # it took that, though not in this run
    assert record.metrics["light"].difference < 0
    assert train_reward_only(spec, out)["reused"]
    assert not train_reward_only(make_spec(seed=1), out)["reused"]


def test_a_reward_without_training_says_so(make_spec, out):
    with pytest.raises(UserError, match="reward Untrainable has no training"):
        train_reward_only(make_spec(reward={"name": "untrainable"}), out)
    with pytest.raises(UserError, match="method none needs no reward"):
        train_reward_only(make_spec(method={"name": "none"}, reward=None), out)


def test_bad_input_leaves_nothing_behind(make_spec, out, tmp_path):
    overlap = {"prompts": str(tmp_path / "train.txt")}
    for spec, message in (
        (make_spec(evaluators=({"name": "broken"},)), "cannot read its weights"),
        (make_spec(eval=overlap), "16 of the 16 evaluation prompts are also training prompts"),
        (make_spec(eval={"prompts": str(tmp_path / "absent.txt")}), "no prompt file"),
    ):
        with pytest.raises(UserError, match=message):
            execute(spec, out)
    assert not out.exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for the device that is not there")
def test_a_device_that_is_not_there(make_spec, out):
    with pytest.raises(UserError, match='device "cuda" is not available here'):
        execute(make_spec(device="cuda"), out)


def test_a_second_run_at_once_is_refused(make_spec, out):
    spec = make_spec()
    with run_lock(out / spec.id), pytest.raises(UserError, match=f"in use by process {os.getpid()}"):
        execute(spec, out)
    assert not (out / spec.id / "record.json").exists()


def test_an_export_that_differs_leaves_no_record(make_spec, out, monkeypatch):
    def differs(self, folder):
        raise RuntimeError("the exported LoRA differs")

    monkeypatch.setattr(Gaussian, "export_lora", differs)
    with pytest.raises(RuntimeError, match="differs"):
        execute(make_spec(), out)
    assert not list(out.glob("*/record.json"))


def test_a_stop_signal_between_images_loses_nothing(make_spec, out, monkeypatch):
    """Stopped after the first of two batches: neither it nor the training is done again."""
    made = Painter.paint

    def interrupted(self, todo):
        if not self.reference:
            os.kill(os.getpid(), signal.SIGTERM)
        return made(self, todo)

    spec = make_spec()
    monkeypatch.setattr(Painter, "paint", interrupted)
    with pytest.raises(Preempted, match="SIGTERM: stopped between images"):
        execute(spec, out)
    monkeypatch.setattr(Painter, "paint", made)
    record = execute(spec, out)
    assert record.training["resumed_from"] == 3
    assert record.reused == ("generate none", "evaluate none")
    assert record.costs["generate lpo"].decodes == 2


def test_images_of_other_weights_are_not_scored(make_spec, out):
    """A folder of images says what made them; the same run with other weights starts again."""
    first = execute(make_spec(), out)
    (first.folder / "scores.csv").unlink()
    about = first.folder / "evaluation" / "about.json"
    about.write_text(about.read_text().replace('"method": "lpo"', '"method": "other"'))
    again = execute(make_spec(), out)
    assert again.costs["generate lpo"].decodes == 6
    (again.folder / "scores.csv").unlink()
    assert "generate lpo" not in execute(make_spec(), out).costs


def test_a_full_disk_at_the_end_is_one_line(make_spec, out, monkeypatch):
    def full(path, columns, captions):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lpobench.conclude.grid", full)
    with pytest.raises(StorageError, match=r"could not be written to .*: No space left on device"):
        execute(make_spec(), out)
    assert not list(out.glob("*/record.json"))


def test_training_starts_from_the_base(make_spec, out):
    """With nothing learnt the two variants are the same images: the pairing is exact."""
    record = execute(make_spec(train={"learning_rate": 1e-30}), out)
    assert record.metrics["light"].difference == 0
    assert record.metrics["light"].win_rate == 0.5
