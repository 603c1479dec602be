"""`lpobench bench backbone`: counts that can be checked by hand, timings that are there, errors in one line."""

import json
import math
import re

import pytest
import torch
from safetensors import safe_open
from torch import nn

from backbones.tiny import SHIPPED
from lpobench.records.bench import Environment, Measurement, Timing
from lpobench.report.bench import (
    backbone_sections,
    changes,
    differences,
    header,
    reward_row,
    reward_sections,
)
from lpobench.timing.rewards import parameters_of
from lpobench.timing.workload import count, parts_of

QUICK = ("--warmup", "0", "--repeats", "2")
SMALL = ("--backbone", "tiny-sd15", "--set", "sampling.num_steps=3", *QUICK)
HERE = Environment(
    device="Some GPU", processor="x", cores=2, threads=1, system="", versions={"torch": "9"}, git=None
)


def timed(median: float, *, spread: float = 0.0, n: int = 20, memory: int = 2**30) -> Timing:
    return Timing(median=median, low=median - spread, high=median + spread, n=n, peak_memory_bytes=memory)


@pytest.fixture(scope="module")
def costs():
    """By hand: a backbone on a GPU."""
    stages = {
        "load": timed(3.25, n=1),
        "denoiser call": Timing(median=0.0191, low=0.019, high=0.0195, n=20, peak_memory_bytes=3 * 2**29),
        "training step": timed(0.125, spread=0.005, memory=2**31),
    }
    return Measurement(
        verb="backbone",
        setup={
            "backbone": {"name": "sd15", "weights": "random"},
            "precision": "fp16",
            "latent_shape": [4, 64, 64],
            "batch": 2,
            "guidance_scale": 5.0,
            "gradient_checkpointing": True,
        },
        environment=HERE,
        timings=stages,
        flops={"denoiser call": 2 * 10**12, "training step": 6 * 10**12},
        unit_flops=10**12,
        parameters={"unet": 859_520_964, "vae": 83_653_863, "LoRA, rank 4, trained": 797_184},
    )


def test_the_embedded_backbone_is_measured(cli):
    """Parameters are counted here from the file; LoRA adds rank x (inputs + outputs) to each attention layer."""
    done = cli(
        "bench",
        "backbone",
        "--backbone",
        "tiny-sd15",
        "--set",
        "lora.rank=4",
        "--batch",
        "2",
        "--json",
        *QUICK,
    )
    assert (done.code, done.err) == (0, "")
    found = json.loads(done.out)
    with safe_open(SHIPPED / "tiny-sd15" / "unet" / "diffusion_pytorch_model.safetensors", "np") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    adapted = [shape for name, shape in shapes.items() if re.search(r"\.to_(q|k|v|out\.0)\.weight$", name)]
    lora = "LoRA, rank 4, trained"
    assert set(found["parameters"]) == {"vae", "text_encoder", "unet", lora}
    assert found["parameters"]["unet"] == sum(map(math.prod, shapes.values()))
    assert found["parameters"][lora] == sum(4 * sum(shape) for shape in adapted)
    assert list(found["timings"]) == ["load", "decode", "denoiser call", "training step"]
    for stage in ("decode", "denoiser call", "training step"):
        timing = found["timings"][stage]
        assert 0 < timing["low"] <= timing["median"] <= timing["high"]
        assert timing["n"] == 2
        assert timing["peak_memory_bytes"] > 4 * sum(found["parameters"].values())
    setup = {"batch": 2, "lora_rank": 4, "precision": "fp32", "latent_shape": [8, 8, 8]}
    assert setup.items() <= found["setup"].items()
    assert found["flops"]["denoiser call"] == 2 * found["unit_flops"] > 10**8


def test_text_encoders_may_be_gone_by_the_training_step(cli):
    released = ("--set", "backbone.text_encoders=release")
    found = json.loads(cli("bench", "backbone", *released, "--json", *QUICK).out)
    assert "text_encoder" in found["parameters"]
    assert found["timings"]["training step"]["n"] == 2


def test_out_of_memory_is_one_line(cli, monkeypatch):
    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr("lpobench.timing.backbone.training_step", lambda *args: full)
    done = cli("bench", "backbone", *QUICK)
    assert (done.code, done.out) == (4, "")
    assert done.err.count("\n") == 1
    assert "measuring backbone tiny-sd15" in done.err


def test_the_table_says_that_a_cpu_is_indicative(cli):
    done = cli("bench", "backbone", "--markdown", *QUICK)
    assert done.out.startswith("bench backbone: tiny-sd15 with default weights, fp32, latents 8 x 8 x 8")
    assert "timed on a CPU: indicative only" in done.out
    assert "| part | parameters |" in done.out
    assert "| denoiser call, 1 latent, no guidance |" in done.out


def test_a_gpus_table(costs):
    assert header(costs) == [
        "bench backbone: sd15 with random weights, fp16, latents 4 x 64 x 64",
        "training step at guidance 5, gradient checkpointing",
        "on Some GPU (x, 2 cores); torch 9",
    ]
    parameters, stages = backbone_sections(costs)
    assert parameters.rows == [
        ["unet", "859.521 M"],
        ["vae", "83.654 M"],
        ["LoRA, rank 4, trained", "0.797 M"],
    ]
    assert stages.rows == [
        ["load", "3.25 s", "", "1", "1.00 GiB", ""],
        ["denoiser call, 2 latents, no guidance", "0.0191 s", "0.019 - 0.0195", "20", "1.50 GiB", "2"],
        ["training step, 1 pair", "0.125 s", "0.12 - 0.13", "20", "2.00 GiB", "6"],
    ]
    assert stages.note == "one denoiser forward, a latent unguided: 1,000 GFLOP"


def test_shared_parameters_count_once():
    layer = nn.Linear(3, 2)
    assert count(nn.Sequential(layer, layer)) == 8


def test_parts_are_the_networks_a_backbone_holds(make_policy):
    assert list(parts_of(make_policy().backbone)) == ["denoiser"]


def test_what_it_costs_is_asked_of_the_backbone_alone(cli, monkeypatch):
    """No reward and no evaluator is looked for: `reward.weights` may be missing."""
    done = cli("bench", "backbone", "--set", "reward.weights=/absent", "--json", *QUICK)
    assert done.code == 0


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("bench backbone --backbone absent", 2, 'unknown backbone "absent"'),
        ("bench backbone --set backbone.weights=/absent", 3, "/absent"),
        ("bench backbone --dtype fp8", 2, 'train.precision: should be one of "fp32", "bf16", "fp16"'),
        ("bench backbone --dtype fp16 --set device=cpu", 2, "needs a GPU"),
        ("bench backbone --resolution 65", 2, "should be a multiple of 8, got 65"),
        ("bench backbone --batch 0", 2, "Invalid value for '--batch'"),
        ("bench backbone --set sampling.eta=0", 2, "training needs eta > 0"),
        ("bench backbones", 2, "No such command 'backbones'"),
    ],
)
def test_errors_are_one_line(cli, words, code, message):
    done = cli(*words.split())
    assert (done.code, done.out) == (code, "")
    assert done.err.count("\n") == 1
    assert message in done.err


def test_bench_lists_its_verbs(cli):
    done = cli("bench")
    assert (done.code, done.err) == (0, "")
    for verb in ("backbone", "reward", "rollout", "step", "compare", "scaling"):
        assert verb in done.out


def test_rewards_stage_by_stage(cli):
    """The LRM reads latents; the SPM asks for a guided call and a decode besides."""
    found = json.loads(cli("bench", "reward", *SMALL, "--candidates", "2", "--json").out)
    stages = {
        "lrm": ["denoising step", "reward"],
        "spm": ["denoising step", "x0 prediction", "VAE decode", "reward"],
    }
    expected = [f"{name}: {stage}" for name in stages for stage in (*stages[name], "in one batch")]
    assert list(found["timings"]) == expected
    forwards = {name: flops / found["unit_flops"] for name, flops in found["flops"].items()}
    assert forwards["lrm: denoising step"] == pytest.approx(2, rel=0.15)  # guided, what both share done once
    assert forwards["spm: x0 prediction"] == forwards["lrm: denoising step"]
    parts = sum(forwards[f"spm: {stage}"] for stage in ("x0 prediction", "VAE decode", "reward"))
    whole = forwards["spm: denoising step"] + 2 * parts
    assert forwards["spm: in one batch"] == pytest.approx(whole, rel=1e-6)
    assert forwards["spm: in one batch"] > 3 * forwards["lrm: in one batch"]
    assert found["numbers"]["lrm: forwards per new prompt"] > 0
    assert found["environment"]["others"] >= 0


def test_a_rollout_and_a_step(cli, tmp_path):
    """Guided: two rows for each of two prompts at each of three steps."""
    done = cli("bench", "rollout", *SMALL, "--prompts", "2", "--json")
    found = json.loads(done.out)
    parts = found["phases"]["rollout"]
    assert parts["denoiser"]["flops"] == pytest.approx(12 * found["unit_flops"], rel=0.15)
    assert found["numbers"]["share of bookkeeping"] < 1
    (tmp_path / "old.json").write_text(done.out)
    again = cli("bench", "--compare", str(tmp_path / "old.json"))
    assert "lpobench bench --compare" in again.err
    assert "new / old" in again.out
    assert "NOT COMPARABLE" not in again.out
    released = ("--set", "backbone.text_encoders=release")
    assert "text encode, 2 prompts, once" in found["timings"]
    step = cli("bench", "step", *SMALL, *released, "--prompts", "2", "--rows", "2", "--markdown")
    assert "| part of one optimiser step |" in step.out
    for part in ("reference", "forward", "backward", "optimizer", "bookkeeping"):
        assert f"| {part} |" in step.out


def test_ours_against_the_released_way(cli):
    words = ("bench", "compare", *SMALL, "--set", "sampling.num_steps=4", "--prompts", "2", "--rows", "4")
    found = json.loads(cli(*words, "--json").out)
    assert found["numbers"]["relative difference of gradients"] < 1e-5
    work = found["flops"]
    assert 2 <= work["training step, released"] / work["training step, ours"] < 2.15
    assert 0 < found["numbers"]["share of the released round that encodes texts again"] < 0.2
    assert list(found["ratios"]) == [
        "training step",
        "rollout",
        *(f"whole iteration, {share} of pairs sure" for share in ("20%", "35%", "50%", "75%", "100%")),
    ]
    for ratio in found["ratios"].values():
        assert 0 < ratio["low"] <= ratio["value"] <= ratio["high"]


def test_a_dry_run_estimates_work_and_hours(cli, tmp_path):
    """A round of two prompts has four guided calls; one update takes its rows; two images before and after."""
    small = ("train.prompts_per_round=2", "train.minibatch=64", "sampling.num_steps=4", "eval.num_steps=2")
    words = [word for text in small for word in ("--set", text)]
    done = cli("run", "--dry-run", "--estimate", "--limit", "2", "--out", str(tmp_path / "out"), *words)
    assert (done.code, done.err) == (0, "")
    assert re.search(r"# work: [\d,]+ denoiser forwards \([\d.]+ GFLOP and [\d.]+ s each, alone\)", done.out)
    assert re.search(r"# time: [\d.e-]+ hours by one process on cpu", done.out)
    for phase in ("load", "collect", "update", "generate", "evaluate"):
        assert re.search(rf"#   {phase}: [\d.]+ s", done.out)
    assert "2 rounds" in done.out
    assert "2 updates" in done.out
    assert list(tmp_path.iterdir()) == []
    assert "# cost: not estimated; --estimate loads the models" in cli("run", "--dry-run").out
    assert cli("run", "--estimate").err == "error: --estimate goes with --dry-run\n"


def test_growth_over_an_axis(cli, tmp_path):
    drawing = tmp_path / "growth.png"
    words = ("--set", "train.prompts_per_round=1", "--prompts", "1,2", "--plot", str(drawing), "--json")
    done = cli("bench", "scaling", *SMALL, *words)
    found = json.loads(done.out)
    assert list(found["timings"]) == ["prompts 1", "prompts 2"]
    assert found["flops"]["prompts 2"] == pytest.approx(2 * found["flops"]["prompts 1"], rel=0.01)
    assert found["numbers"]["prompts: exponent of work"] == pytest.approx(1, abs=0.01)
    assert drawing.stat().st_size > 1000


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("bench compare --set method.inner_steps=1", 2, "step-level DPO on forks"),
        ("bench compare --set train.parameters=all", 2, "the released procedure, which trains a LoRA"),
        ("bench rollout --method none", 2, "trains nothing"),
        (
            "bench rollout --backbone tiny-sd15 --random",
            2,
            "random weights are made at the published models' size",
        ),
        ("bench reward --reward absent", 2, 'unknown reward "absent"'),
        ("bench reward --candidates 1", 2, "Invalid value for '--candidates'"),
        ("bench scaling --steps 5,x", 2, "--steps 5,x: should be whole numbers"),
        ("bench scaling --plot growth.jpg", 2, "should end in .png or .svg"),
        ("bench --compare /absent.json", 3, "no measurement at /absent.json"),
        ("bench --with /absent.json", 2, "--with NEW.json goes with --compare OLD.json"),
    ],
)
def test_errors_of_the_verbs(cli, words, code, message):
    done = cli(*words.split())
    assert (done.code, done.out) == (code, "")
    assert done.err.splitlines()[-1].startswith("error: ")
    assert message in done.err


def test_the_papers_total():
    """0.019 + 4 (0.019 + 0.031 + 0.006) = 0.243 and 0.019 + 4 x 0.005 = 0.039, as printed."""
    spm = {"denoising step": 0.019, "x0 prediction": 0.019, "VAE decode": 0.031, "reward": 0.006}
    lrm = {"denoising step": 0.019, "reward": 0.005}
    assert reward_row("spm", spm, 4)[5] == "0.243 s"
    assert reward_row("lrm", lrm, 4) == ["lrm", "0.019 s", "", "", "0.005 s", "0.039 s", ""]


@pytest.fixture
def measured():
    """The paper's seconds, as a measurement of ours."""
    seconds = {
        "spm: x0 prediction": 0.019,
        "spm: VAE decode": 0.031,
        "spm: reward": 0.006,
        "lrm: reward": 0.005,
    }
    seconds |= {f"{name}: denoising step": 0.019 for name in ("lrm", "spm")}
    seconds |= {"lrm: in one batch": 0.03, "spm: in one batch": 0.15}
    return Measurement(
        verb="reward",
        setup={"candidates": 4, "rewards": {"lrm": {}, "spm": {}}},
        environment=HERE,
        timings={name: timed(value) for name, value in seconds.items()},
        flops={name: round(1000 * value) for name, value in seconds.items()},
        unit_flops=10,
        parameters={"lrm": 10**6, "spm": 10**9},
    )


def test_rewards_beside_the_published_ones(measured):
    table, work, against, *_ = reward_sections(measured)
    ours = {row[0]: row[1:6] for row in table.rows}
    assert ours["spm"] == ["0.019 s", "0.019 s", "0.031 s", "0.006 s", "0.243 s"]
    assert ours["published: spm, sd15, A100"] == ours["spm"]
    assert ours["published: lrm, sd15, A100"] == ours["lrm"]
    assert work.rows[0] == ["lrm", "1.9", "", "", "0.5", "3", "1.0 M", "1.00 GiB"]
    assert against.rows == [
        ["spm: scoring a candidate", "11.20 x", "11.20 x"],
        ["spm: whole step, k = 4, a candidate at a time", "6.23 x", "6.23 x"],
        ["spm: whole step, 4 in one batch", "5.00 x", "5.00 x"],
    ]


@pytest.mark.parametrize(
    ("trained", "said"),
    [({"lora_rank": 8}, "LoRA rank 8"), ({"trained": "all weights"}, "all weights trained")],
)
def test_the_table_says_what_is_trained(measured, trained, said):
    setup = {"backbone": {"name": "sd15"}, "method": {"name": "lpo"}, "reward": "lrm", "precision": "bf16"}
    setup |= {"sampling": {"num_steps": 20, "guidance_scale": 5.0}, "prompts_per_round": 4}
    setup |= {"rows_per_update": 16, "minibatch": 8} | trained
    assert (
        f"guidance 5, {said}; 4 prompts a round"
        in header(measured.model_copy(update={"verb": "step", "setup": setup}))[1]
    )


def test_changes_beyond_noise():
    """5 % and overlapping quartiles are noise; another 20 % is none."""
    old = {"a": timed(1.0, spread=0.1), "b": timed(1.0, spread=0.01), "c": timed(1.0), "d": timed(1.0)}
    new = {"a": timed(1.15, spread=0.1), "b": timed(1.2, spread=0.01), "c": timed(0.5), "e": timed(1.0)}
    verdicts = {row[0]: row[4] for row in changes(old, new).rows}
    assert verdicts == {"a": "same", "b": "slower", "c": "faster", "d": "gone", "e": "new"}


def test_what_makes_measurements_incomparable(measured):
    assert differences(measured, measured) == []
    other = measured.model_copy(
        update={
            "setup": {**measured.setup, "candidates": 8},
            "environment": HERE.model_copy(update={"busy": True, "versions": {"torch": "10"}}),
        }
    )
    assert differences(measured, other) == [
        "NOT COMPARABLE: another setup was measured (candidates)",
        "other versions: torch",
        "a machine was busy: times are upper bounds",
    ]


def test_two_files_are_compared(cli, tmp_path, measured):
    """Ours, and what pytest-benchmark writes, with each other's kind."""
    stats = {"median": 0.5, "q1": 0.4, "q3": 0.6, "rounds": 20}
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    old.write_text(json.dumps({"benchmarks": [{"fullname": "test_x", "stats": stats}]}))
    new.write_text(json.dumps({"benchmarks": [{"fullname": "test_x", "stats": {**stats, "median": 0.55}}]}))
    done = cli("bench", "--compare", str(old), "--with", str(new))
    assert (done.code, done.err) == (0, "")
    assert re.search(r"test_x\s+0.5 s\s+0.55 s\s+1.100\s+same", done.out)
    alone = cli("bench", "--compare", str(old))
    assert (alone.code, "was written by pytest" in alone.err) == (2, True)
    new.write_text(measured.model_dump_json())
    assert "lrm: reward" in cli("bench", "--compare", str(old), "--with", str(new)).out
    for text, message in (
        ("{}", "is not a measurement"),
        ("[", "is not JSON"),
        ('{"schema_version": 99}', "upgrade"),
    ):
        new.write_text(text)
        done = cli("bench", "--compare", str(new))
        assert done.code == 2
        assert message in done.err or "reads up to" in done.err


def test_parameters_of_a_reward_are_found_below_it():
    class Holder:
        def __init__(self, part):
            self.part, self.number = part, 3

    layer = nn.Linear(3, 2)
    assert parameters_of(Holder(layer)) == 8
    assert parameters_of(Holder(Holder(layer))) == 8
    assert parameters_of(layer) == 8
    assert parameters_of(Holder(torch.zeros(3))) == 0
