"""`lpobench eval` on the Gaussian backbone: three stages, what is missing, and every wrong word in one line."""

import json
import shutil
import sys
from pathlib import Path
from typing import ClassVar

import made
import pandas as pd
import processes
import pytest
import torch
from made import NAMES, Broken, Meter, Toy, register_toys
from made_judges import picture

from backbones.gaussian import Gaussian
from lpobench import slots
from lpobench.lock import run_lock
from lpobench.plugin import MissingAsset, UserError
from lpobench.records.evaluation import EvalRecord
from lpobench.sampling import RectifiedFlow, VariancePreserving
from lpobench.scoring import worker

WORKER = Path(processes.__file__).parent / "fake_worker.py"


class Movable(Gaussian):
    """A checkpoint is a text file with a number, by which mu is moved."""

    def load_checkpoint(self, path, *, check_only=False):
        self.denoiser.shift = torch.nn.Parameter(torch.tensor([float(path.read_text())]), requires_grad=False)
        return "mu moved"


class MovableToy(Toy):
    """The Gaussian backbone, which reads checkpoints."""

    def load(self, device, dtype):
        return Movable(VariancePreserving.scaled_linear(), self.scale, dtype)


class Flow(Toy):
    """A flow."""

    def load(self, device, dtype):
        return Gaussian(RectifiedFlow(), self.scale, dtype)


class Absent(Meter):
    """Its weights are not here."""

    licence: ClassVar = "Its own"

    def assets(self):
        raise MissingAsset(
            "no absent on this machine (1 GB, licence Its own); `lpobench download absent` fetches it"
        )


class Picky(Meter):
    """Knows other prompts."""

    def score(self, images, prompts):
        raise UserError(f"evaluator picky: what is {prompts[0].text}?")


class Suite(Meter):
    """Judges GenEval's prompts."""

    suite: ClassVar = "geneval"


class Spoilt(Meter):
    """No number where an image is light."""

    def score(self, images, prompts):
        found = super().score(images, prompts)
        return found.assign(light=found["light"].where(found["light"] < 0.6))


class Sizes(Meter):
    """Sizes of PNG files; its official code counts the same way, and `how` it fails."""

    metrics: ClassVar = {"size": Meter.metrics["light"]}
    official: ClassVar = "hpsv2x"

    how: str = ""
    """how"""

    def score(self, images, prompts):
        return pd.DataFrame({"size": [80.0] * len(prompts)})

    def official_options(self):
        return {"how": self.how}


EVALUATORS = {
    "meter": Meter,
    "absent": Absent,
    "suite": Suite,
    "spoilt": Spoilt,
    "sizes": Sizes,
    "broken": Broken,
    "picky": Picky,
}


@pytest.fixture
def world(monkeypatch, tmp_path):
    """Six prompts in p.csv, in the working folder."""
    monkeypatch.setitem(NAMES, "backbones", {"toy": MovableToy, "flow": Flow})
    monkeypatch.setitem(NAMES, "evaluators", dict(EVALUATORS))
    register_toys(monkeypatch)
    monkeypatch.setitem(slots.DEFAULTS, "backbone", "toy")
    monkeypatch.setattr(worker, "command_of", lambda name: [sys.executable, "-S", "-E", str(WORKER)])
    monkeypatch.chdir(tmp_path)
    rows = [f"0.{i},{'ab'[i % 2]}\n" for i in range(1, 7)]
    (tmp_path / "p.csv").write_text("prompt,task\n" + "".join(rows))
    return tmp_path


WORDS = (
    "--prompts",
    "p.csv",
    "--set",
    "eval.num_steps=4",
    "--set",
    "eval.guidance_scale=1",
    "--set",
    "device=cpu",
)
WORDS += ("--set", "eval.batch_size=4", "--set", "eval.bootstrap_samples=200", "--out", "out")


def evaluate(cli, *words, evaluators="meter"):
    return cli("eval", "--evaluators", evaluators, *words, *WORDS)


def only(folder: Path) -> EvalRecord:
    [record] = [EvalRecord.read(path) for path in folder.iterdir()]
    return record


def test_a_table_and_a_record(cli, world):
    done = evaluate(cli)
    assert done.code == 0, done.err
    record = only(world / "out")
    assert record.protocol.protocol == "standard@1"
    assert (record.protocol.num_prompts, record.protocol.num_steps, record.cut) == (6, 4, False)
    assert record.made == {"generate": 6, "score meter": 6}
    assert record.costs["generate"].decodes == 6
    scores = pd.read_csv(record.folder / "scores.csv", dtype={"prompt": str})
    assert scores["prompt"].tolist() == [f"0.{i}" for i in range(1, 7)]
    assert record.metrics["light"].mean == pytest.approx(scores["light"].mean())
    assert record.metrics["light"].low < record.metrics["light"].mean < record.metrics["light"].high
    assert record.tasks["light"]["a"].mean == pytest.approx(scores[scores["task"] == "a"]["light"].mean())
    assert record.shown == ("bright",)
    assert "protocol standard@1: Every image is scored." in done.out
    assert "bright by task" in done.out
    assert "images/s" in done.err
    assert f"{record.metrics['light'].mean:.4f} [" in (record.folder / "table.md").read_text()


def test_the_same_command_makes_nothing_and_another_scorer_no_image(cli, world):
    evaluate(cli)
    assert "it was all there" in evaluate(cli).err
    done = evaluate(cli, evaluators="meter,sizes")
    record = only(world / "out")
    assert record.made == {"score sizes": 6}
    assert list(record.metrics) == ["light", "bright", "size"]
    assert "generate" not in done.err


def test_json_is_one_document(cli, world):
    document = json.loads(evaluate(cli, "--json").out)
    assert [one["protocol"]["protocol"] for one in document] == ["standard@1"]


def test_two_jobs_share_the_prompts_and_the_last_writes_the_record(cli, world):
    first = evaluate(cli, "--shard", "1/2")
    assert first.code == 0
    assert "scores are missing (3 by meter); the job that finishes last writes the record" in first.err
    assert evaluate(cli, "--shard", "0/2").code == 0
    shared = only(world / "out")
    (world / "out").rename(world / "shared")
    evaluate(cli)
    assert shared.metrics["light"].mean == pytest.approx(only(world / "out").metrics["light"].mean, abs=1e-6)


def test_a_checkpoint_has_a_folder_of_its_own(cli, world):
    (world / "up.txt").write_text("0.5")
    evaluate(cli)
    assert evaluate(cli, "--lora", "up.txt").code == 0
    assert evaluate(cli, "--checkpoint", "up.txt").err.count("it was all there") == 1
    base, moved = sorted(
        (EvalRecord.read(path) for path in (world / "out").iterdir()), key=lambda r: r.weights != "none"
    )
    assert (moved.weights, moved.checkpoint.loaded) == ("up.txt", "mu moved")
    assert moved.metrics["light"].mean > base.metrics["light"].mean
    assert moved.base == base.base
    table = cli("report", "--out", "out").out
    assert "| metric | toy | up.txt on toy |" in table
    (world / "up.txt").write_text("-0.5")
    assert evaluate(cli, "--lora", "up.txt").code == 0
    assert len(list((world / "out").iterdir())) == 3


def test_all_leaves_out_who_cannot_run_and_says_so(cli, world):
    done = cli("eval", *WORDS, "--protocol", "standard@1")
    assert (
        "not run: absent: no absent on this machine (1 GB, licence Its own); `lpobench download" in done.err
    )
    assert done.code == 4  # spoilt can run, and finds what is no number
    for name in ("suite", "spoilt", "sizes"):
        del made.NAMES["evaluators"][name]
    for _ in "again", "with a folder of its own":
        done = cli("eval", *WORDS)
        assert done.code == 0, done.err
        assert "not run: broken: evaluator broken: cannot read its weights" in done.err
        assert "not run: picky: evaluator picky: what is 0." in done.err
        assert list(only(world / "out").scorers) == ["meter"]
        shutil.rmtree(world / "out")


def test_suites_bring_their_prompts_and_protocols(cli, world):
    words = ("eval", "--dry-run", "--json")
    done = cli(*words, "--evaluators", "suite,sizes")
    assert done.code == 0, done.err
    parts = json.loads(done.out)["parts"]
    assert [(p["protocol"], p["prompts"], p["num_prompts"]) for p in parts] == [
        ("geneval@1", "geneval", "all"), ("standard@1", "shapes", 600),
    ]  # fmt: skip


def test_a_dry_run_writes_nothing(cli, world):
    done = evaluate(cli, "--dry-run", "--protocol", "standard@1")
    assert done.code == 0
    assert "state: new" in done.out
    assert "evaluators: meter 3" in done.out
    assert sorted(path.name for path in world.iterdir()) == ["p.csv"]


def test_the_official_code_and_its_difference(cli, world):
    done = evaluate(cli, "--engine", "sizes=both", evaluators="sizes,meter")
    assert done.code == 0, done.err
    record = only(world / "out")
    assert list(record.scorers) == ["sizes", "sizes-official", "meter"]
    gap = record.metrics["sizes-official.size"].mean - record.metrics["sizes.size"].mean
    assert record.differences["size"].mean == pytest.approx(gap)
    assert "official code minus ours, toy" in done.out
    assert record.protocol.evaluators["sizes-official"].startswith("3-hpsv2x-")


def test_the_official_code_on_a_folder_of_images(cli, world):
    (world / "images").mkdir()
    picture(world / "images" / "a.png", 100)
    (world / "images" / "a.txt").write_text("x")
    done = cli("score", "images", "--evaluators", "sizes", "--engine", "both", "--json")
    found = json.loads(done.out)
    gap = found["mean"]["sizes-official.size"] - 80
    assert found["official_minus_ours"] == {"size": {"mean": gap, "largest": abs(gap)}}
    assert f"size, official code minus ours: mean {gap:+.3g}" in done.err


def test_a_score_that_is_no_number(cli, world):
    done = evaluate(cli, evaluators="meter,spoilt")
    assert done.code == 4
    assert "error: evaluator spoilt: light is nan for image 0 of prompt" in done.err
    assert evaluate(cli).code == 0, "what meter said is kept"


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("dies", "worker hpsv2x ended with code 7: so long; it had been started again before"),
        ("raises", "worker hpsv2x: ValueError: no such image"),
        ("few", "worker hpsv2x answered '[1.0]', which is not 6 numbers for size"),
        ("not finite", "evaluator sizes-official: size is nan for image 0"),
    ],
)
def test_a_worker_that_fails_is_one_line(cli, world, how, message):
    done = evaluate(cli, "--engine", "official", "--set", f"evaluators.sizes.how={how}", evaluators="sizes")
    assert done.code == 4
    last = done.err.splitlines()[-1]
    assert last.startswith(f"error: {message}")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("--evaluators absent", 3, "no absent on this machine (1 GB, licence Its own); `lpobench download absent`"),
        ("--evaluators metre", 2, 'unknown evaluator "metre"; did you mean "meter"?'),
        ("--evaluators meter,meter", 2, "--evaluators meter,meter names somebody twice"),
        ("--evaluators ,", 2, "--evaluators names nobody"),
        ("--evaluators broken", 2, "evaluator broken: cannot read its weights"),
        ("--evaluators meter --backbone tiny", 2, 'unknown backbone "tiny"'),
        ("--evaluators meter --protocol standard", 2, 'unknown protocol "standard"; did you mean "standard@1"?'),
        ("--evaluators meter --protocol geneval@1", 2, "protocol geneval@1 fixes guidance_scale, num_steps, prompts"),
        ("--evaluators meter --engine fast", 2, '--engine fast: unknown engine "fast"; known: native, official'),
        ("--evaluators meter --engine official", 2, "evaluator meter has no official package here"),
        ("--evaluators meter --engine sizes=both", 2, '--engine sizes=both: no evaluator "sizes" in this'),
        ("--evaluators meter --lora a --checkpoint b", 2, "--lora and --checkpoint both say what is put"),
        ("--evaluators meter --lora no/such/lora.safetensors", 3, "no checkpoint at no/such/lora.safetensors"),
        ("--evaluators meter --prompts none.txt", 3, "no prompt file none.txt"),
        ("--evaluators meter --prompts empty.txt", 2, "no prompts in empty.txt: every line is empty"),
        ("--evaluators meter --shard 2/2", 2, "shard should be I/N with I from 0 to N-1"),
        ("--evaluators meter --num-prompts 0", 2, "Invalid value for '--num-prompts'"),
        ("--evaluators meter --set eval.steps=3", 2, "--set eval.steps is not a setting of eval"),
        ("--evaluators meter --out p.csv", 2, "cannot write to p.csv"),
    ],
)  # fmt: skip
def test_one_line_and_the_documented_code(cli, world, words, code, message):
    (world / "empty.txt").write_text("\n\n")
    given = words.split()
    plain = [word for pair in zip(WORDS[::2], WORDS[1::2], strict=True) if pair[0] == "--set" or pair[0] not in given
             for word in pair]  # fmt: skip
    done = cli("eval", *given, *plain)
    assert (done.code, done.out) == (code, "")
    lines = [line for line in done.err.splitlines() if not line.startswith("not run")]
    assert len(lines) == 1, done.err
    assert lines[0].startswith(f"error: {message}")
    assert not list(world.rglob("*.png"))


def test_a_protocol_that_wants_another_schedule(cli, world, monkeypatch):
    from lpobench.data import prompt_sets

    monkeypatch.setitem(prompt_sets.SETS, "pickapic-v1-prompts", lambda: [("0.5", {}), ("1", {})])
    words = (
        "eval",
        "--evaluators",
        "meter",
        "--protocol",
        "lpo-paper@1",
        "--out",
        "out",
        "--set",
        "device=cpu",
    )
    done = cli(*words, "--backbone", "flow")
    assert done.code == 2
    assert done.err.splitlines()[-1].startswith("error: protocol lpo-paper@1 samples with SDXL's schedule")
    done = cli(*words)
    assert done.code == 0, done.err
    record = next(
        EvalRecord.read(path) for path in (world / "out").iterdir() if (path / "evaluation.json").exists()
    )
    assert (record.protocol.images_per_prompt, record.metrics["light"].num_images) == (4, 2)
    assert len(list((record.folder / "images").iterdir())) == 8
    assert "the first of the four is scored" in done.out


def test_a_folder_that_is_in_use(cli, world):
    evaluate(cli)
    [folder] = (world / "out").iterdir()
    with run_lock(folder / ".workers" / "0-of-1"):
        done = evaluate(cli)
    assert done.code == 2
    assert "is in use by process" in done.err


def test_other_prompts_under_the_same_name(cli, world):
    evaluate(cli)
    (world / "p.csv").write_text("prompt\n0.9\n")
    done = evaluate(cli)
    assert done.code == 2
    assert "holds other work: its prompts_sha256 is" in done.err


def test_list_evaluators_says_who_can_run(cli, world):
    done = cli("list", "evaluators")
    assert "  absent  missing  Its weights are not here." in done.out
    assert "  meter   ready    Mean brightness" in done.out
    assert "\nabsent: licence Its own\n  no absent on this machine" in done.out
    found = json.loads(cli("list", "evaluators", "--json").out)["evaluators"]
    assert found["absent"]["command"] == "lpobench download absent"
    assert found["suite"]["suite"] == "geneval"
    assert found["sizes"]["official"] == "hpsv2x"
    assert json.loads(cli("doctor", "--json").out)["evaluators"]["absent"].startswith("not ready: no absent")


def test_protocols_have_names(cli):
    assert "lpo-paper@1" in cli("list", "protocols").out
    assert "seed = 42" in cli("show", "lpo-paper@1").out
    assert json.loads(cli("show", "geneval@1", "--json").out)["guidance"] == {"default": 9.0, "flux": 1.0}
