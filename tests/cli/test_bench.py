"""`lpobench bench backbone`: counts that can be checked by hand, timings that are there, errors in one line."""

import json
import math
import re

import pytest
import torch
from safetensors import safe_open
from torch import nn

from backbones.tiny import SHIPPED
from lpobench.report.costs import backbone_header, backbone_sections
from lpobench.timing.backbone import BackboneCosts, count, parts_of
from lpobench.timing.stopwatch import Timing, measure

CPU = torch.device("cpu")
QUICK = ("--warmup", "0", "--repeats", "2")


@pytest.fixture(scope="module")
def costs():
    """By hand: a backbone on a GPU."""
    stages = {
        "load": Timing(3.25, 3.25, 3.25, 1, 2**30),
        "denoiser call": Timing(0.0191, 0.019, 0.0195, 20, 3 * 2**29),
        "training step": Timing(0.125, 0.12, 0.13, 20, 2**31),
    }
    return BackboneCosts(
        backbone="sd15",
        settings={"weights": "random"},
        device="Some GPU",
        indicative=False,
        precision="fp16",
        latent_shape=(4, 64, 64),
        batch=2,
        guidance_scale=5.0,
        gradient_checkpointing=True,
        parameters={"unet": 859_520_964, "vae": 83_653_863},
        lora_rank=4,
        lora_parameters=797_184,
        stages=stages,
        versions={},
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
    assert set(found["parameters"]) == {"vae", "text_encoder", "unet"}
    assert found["parameters"]["unet"] == sum(map(math.prod, shapes.values()))
    assert found["lora_parameters"] == sum(4 * sum(shape) for shape in adapted)
    assert list(found["stages"]) == ["load", "decode", "denoiser call", "training step"]
    for stage in ("decode", "denoiser call", "training step"):
        timing = found["stages"][stage]
        assert 0 < timing["low"] <= timing["median"] <= timing["high"]
        assert timing["n"] == 2
        assert timing["peak_memory_bytes"] > 4 * sum(found["parameters"].values())
    assert (found["indicative"], found["batch"], found["lora_rank"]) == (True, 2, 4)
    assert (found["precision"], found["latent_shape"]) == ("fp32", [8, 8, 8])


def test_text_encoders_may_be_gone_by_the_training_step(cli):
    released = ("--set", "backbone.text_encoders=release")
    found = json.loads(cli("bench", "backbone", *released, "--json", *QUICK).out)
    assert "text_encoder" in found["parameters"]
    assert found["stages"]["training step"]["n"] == 2


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
    assert done.out.startswith("tiny-sd15 with default weights, fp32, on cpu, ")
    assert "timed on a CPU: indicative only" in done.out
    assert "| part | parameters |" in done.out
    assert "| denoiser call, 1 latent, no guidance |" in done.out


def test_a_gpus_table(costs):
    assert backbone_header(costs) == [
        "sd15 with random weights, fp16, on Some GPU",
        "latents 4 x 64 x 64; training step at guidance 5, gradient checkpointing",
    ]
    parameters, stages = backbone_sections(costs)
    assert parameters.rows == [
        ["unet", "859.521 M"],
        ["vae", "83.654 M"],
        ["LoRA, rank 4, trained", "0.797 M"],
    ]
    assert stages.rows == [
        ["load", "3.25 s", "", "1", "1.00 GiB"],
        ["denoiser call, 2 latents, no guidance", "0.0191 s", "0.019 - 0.0195", "20", "1.50 GiB"],
        ["training step, 1 pair", "0.125 s", "0.12 - 0.13", "20", "2.00 GiB"],
    ]
    assert stages.note == ""


def test_quartiles(monkeypatch):
    """Five calls of 1, 2, 3, 4 and 10 seconds: median 3, quartiles 2 and 4; warm-up calls are not timed."""
    now, calls = iter([0, 1, 10, 12, 20, 23, 30, 34, 40, 50]), []
    monkeypatch.setattr("lpobench.timing.stopwatch.time.perf_counter", lambda: next(now))
    timing = measure(lambda: calls.append(1), CPU, warmup=2, repeats=5)
    assert (timing.median, timing.low, timing.high, timing.n, len(calls)) == (3, 2, 4, 5, 7)


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
    assert "backbone" in done.out
