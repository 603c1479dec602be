"""One run in several processes is the same run: numbers, images, files, errors. See worlds.py."""

import json
from itertools import product
from pathlib import Path

import pandas as pd
import pytest
import torch
from processes import finished
from safetensors.torch import load_file

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """Scenario -> what its processes say, in order of rank; and the folder of their runs."""
    folder = tmp_path_factory.mktemp("worlds")
    done = finished([HERE / "worlds.py", folder], RANK=None, WORLD_SIZE=None, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    found: dict[str, list] = {}
    for file in sorted(folder.glob("*-[0-9].json")):
        found.setdefault(file.stem[:-2], []).append(json.loads(file.read_text()))
    return found, folder, done.stderr


@pytest.fixture(scope="module")
def runs(played):
    """The record of a scenario's run, with its folder; every process has been given the same."""

    def read(name, out=None):
        found, folder, _ = played
        records = [each["result"] for each in found[name]]
        assert all(record == records[0] for record in records)
        return records[0], next((folder / (out or name)).glob("toy-*"))

    return read


def metrics(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return pd.DataFrame(lines).drop(columns="seconds")


def same(one, other):
    """Losses, gradients and scores of two runs, to 1e-6."""
    pd.testing.assert_frame_equal(metrics(one), metrics(other), rtol=1e-6, atol=1e-6)
    tables = (pd.read_csv(folder / "scores.csv") for folder in (one, other))
    pd.testing.assert_frame_equal(*tables, rtol=1e-6, atol=1e-6)
    assert (one / "grid.png").read_bytes() == (other / "grid.png").read_bytes()


def test_what_the_processes_know_of_each_other(played):
    """Gradients 1 and 2 add up to 3; the one that only one process has is kept, the one nobody has stays None.

    In one all-reduce, and in several.
    """
    zero, one = (each["result"] for each in played[0]["numbers"])
    common = {"world": 2, "gather": [1, 2], "from_main": 1, "anywhere": True, "first": 2}
    common["gradients"] = [[[3, 3], [5, 5], None]] * 2
    assert zero == {**common, "share": [0, 2]}
    assert one == {**common, "share": [2, 5]}


def test_a_user_error_of_the_main_process_is_everybodys(played):
    assert played[0]["refused"] == [{"error": "the disk is full", "code": 4}] * 2


@pytest.mark.parametrize("name", ["two", "three"])
def test_more_processes_give_the_same_run(runs, name):
    (one, one_folder), (more, folder) = runs("one"), runs(name)
    same(folder, one_folder)
    assert more["processes"] == more["training"]["processes"] == {"two": 2, "three": 3}[name]
    assert one["processes"] == 1
    assert more["base"] == one["base"]
    for phase, cost in more["costs"].items():  # the same latents, in more and smaller calls
        assert cost["rows"] == one["costs"][phase]["rows"], phase
        assert cost["calls"] >= one["costs"][phase]["calls"]


def test_all_weights_are_trained_by_two_as_by_one(runs):
    (one, alone), (two, shared) = runs("whole-one"), runs("whole-two")
    same(shared, alone)
    assert (one["processes"], two["processes"]) == (1, 2)
    assert one["training"]["parameters"] == 1


@pytest.mark.parametrize("name", ["split-two", "split-three"])
def test_split_weights_are_trained_as_whole_ones(runs, name):
    """Passes of processes that differ in number are done together; the id is the same, and so is what is exported."""
    (one, alone), (more, folder) = runs("whole-one"), runs(name)
    same(folder, alone)
    assert (more["id"], more["training"]["parameters"]) == (one["id"], 1)
    assert more["processes"] == {"split-two": 2, "split-three": 3}[name]
    assert weights(folder) == pytest.approx(weights(alone), rel=1e-6)


def weights(folder):
    """The one that the toy has, as exported."""
    [value] = load_file(folder / "denoiser" / "diffusion_pytorch_model.safetensors").values()
    return value.item()


def test_split_weights_are_stopped_and_go_on_with_any_number(played, runs):
    assert [each["code"] for each in played[0]["split-stopped"]] == [75, 75]
    record, folder = runs("split-resumed", "split-stopped")
    assert record["training"]["resumed_from"] is not None
    same(folder, runs("whole-one")[1])


def test_a_split_unet_is_the_whole_one(played):
    """Each process holds half of it; trained, saved, loaded and trained on, it is the same, and so is its reference."""
    [whole], twice = ([each["result"] for each in played[0][name]] for name in ("split-once", "split-twice"))
    assert sum(each["held"] for each in twice) == whole["held"]
    assert all(each["held"] < 0.55 * whole["held"] for each in twice)
    for each, what in product(twice, ("made", "referred")):
        torch.testing.assert_close(*map(torch.tensor, (each[what], whole[what])), rtol=1e-5, atol=1e-5)


def test_one_process_has_nobody_to_split_weights_with(played):
    [said] = played[0]["split-alone"]
    assert said["error"].startswith("train.sharding fsdp2 splits weights over processes, and there is one")


def test_a_complete_run_is_recognised_by_all(played, runs):
    assert runs("again", "two")[0] == runs("two")[0]
    assert "is complete already" in played[2]


def test_more_processes_than_prompts(played, runs):
    """Too few to train on is an error; with two prompts to score, the first of three processes has none."""
    message = "train.prompts_per_round is 2, fewer than the 3 processes that share them"
    assert all(message in each["error"] and each["code"] == 2 for each in played[0]["crowd"])
    record, _ = runs("few")
    assert record["protocol"]["num_prompts"] == 2


def test_a_reward_is_trained_by_all_and_used(played, runs):
    summaries = [each["result"] for each in played[0]["reward"]]
    assert summaries[0] == summaries[1]
    assert not summaries[0]["reused"]
    assert runs("own-reward", "reward")[0]["metrics"]["light"]["difference"] < 0


def test_one_that_fails_takes_the_others_along(played):
    """The reason is the failing process's; the other says only that it lost one."""
    zero, one = played[0]["torn"]
    assert one == {"error": "reward: no idea", "code": 2}
    assert zero["code"] == 4
    assert zero["error"].startswith("process 0 of 2 lost another one: ")


def test_a_stop_signal_to_one_process_stops_all_and_the_run_goes_on_with_any_number(played, runs):
    """Asked in an update: all leave after it, with its checkpoint; one process alone finishes the run."""
    saved = [each["error"] for each in played[0]["stopped"]]
    assert saved[0] == saved[1]
    assert saved[0].startswith("SIGUSR1: saved at update ")
    assert [each["code"] for each in played[0]["stopped"]] == [75, 75]
    record, folder = runs("resumed", "stopped")
    assert record["training"]["resumed_from"] == int(saved[0].split()[4])
    same(folder, runs("one")[1])
    assert record["costs"]["update"]["rows"] == runs("one")[0]["costs"]["update"]["rows"]


def test_a_stop_signal_between_images(played):
    assert [each["code"] for each in played[0]["images"]] == [75, 75]
    assert all("stopped between images" in each["error"] for each in played[0]["images"])


def test_a_process_short_of_memory_makes_all_halve(played, runs):
    """Five prompts and eight rows between two: 3 prompts in three passes of 1, 4 rows by 2 and then by 1."""
    record, folder = runs("short")
    same(folder, runs("one")[1])
    assert (record["training"]["microbatch"], record["training"]["collect_passes"]) == (1, 3)
    said = [line for line in played[2].splitlines() if "out of memory" in line]
    assert said == [
        "out of memory collecting round 1: it is collected in 2 passes, not in 1",
        "out of memory collecting round 1: it is collected in 3 passes, not in 2",
        "out of memory in update 1: its 8 rows are taken in parts of 2, not of 4",
        "out of memory in update 1: its 8 rows are taken in parts of 1, not of 2",
    ]


def test_an_evaluation_is_shared(runs):
    (one, alone), (two, shared) = (runs(name) for name in ("evaluation-one", "evaluation-two"))
    assert (one["processes"], two["processes"]) == (1, 2)
    assert two["made"] == {"generate": 6, "score meter": 6}, "the main process's half"
    names = [sorted(path.name for path in (folder / "images").iterdir()) for folder in (alone, shared)]
    assert names[0] == names[1]
    assert len(names[0]) == 12
    tables = [pd.read_csv(folder / "scores.csv") for folder in (alone, shared)]
    pd.testing.assert_frame_equal(*tables, atol=1e-6)
