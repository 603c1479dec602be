"""Sweeps of toys: the same records from every launcher, and nothing lost or done twice, whoever is killed when."""

import json
import os
import signal
import sys
from collections import Counter
from contextlib import ExitStack
from dataclasses import replace

import pytest
from processes import ended, finished, started, wait_for
from toy_world import World

from lpobench.launch.jobs import Child, Job, last_line
from lpobench.launch.local import Local, slots_for
from lpobench.plugin import UserError
from lpobench.records.record import RunRecord
from lpobench.records.sweep import read_sweeps


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def records(out):
    found = [RunRecord.read(path.parent) for path in out.glob("*/record.json")]
    return {r.id: (r.spec, r.metrics, r.files) for r in found if r.complete}


def test_every_launcher_leaves_the_same_records(world, tmp_path):
    grid = world.sweep(method__beta=[5.0, 50.0], backbone__width=[8, 16])
    options = {
        "local": ["--jobs", "2"],
        "ray": ["--launcher", "ray", "--jobs", "3"],
        "slurm": ["--launcher", "slurm", "--slurm", "cluster=local"],
    }
    world.open()
    with ExitStack() as stack:
        begun = {
            name: stack.enter_context(
                started(world.words("ablate", grid, *words, out=tmp_path / name), **world.variables)
            )
            for name, words in options.items()
        }
        for name, process in begun.items():
            done = ended(process)
            assert done.returncode == 0, f"{name}: {done.stderr}"
    found = {name: records(tmp_path / name) for name in options}
    assert len(found["local"]) == 4
    assert found["local"] == found["ray"] == found["slurm"]
    sweeps = {name: read_sweeps(tmp_path / name)[0] for name in options}
    for sweep in sweeps.values():
        assert [cell.state for cell in sweep.cells] == ["complete"] * 4
        assert sweep.id == sweeps["local"].id
        assert all((sweep.folder / cell.log).is_file() for cell in sweep.cells)


def test_kill_9_of_the_driver_then_again(world):
    grid = world.sweep(method__beta=[5.0, 50.0, 7.0])
    with world.held("ablate", grid, "--jobs", "2", num=2) as process:
        process.kill()
        process.wait()
    workers = [int(line.split()[1]) for line in world.events("begin")]
    wait_for(lambda: not any(map(alive, workers)), "the workers' end")
    assert [cell.state for cell in world.record.cells] == ["planned"] * 3
    again = world.ablate(grid, "--jobs", "2")
    assert again.returncode == 0, again.stderr
    assert len(world.events("end")) == 3
    assert world.steps_once
    assert {cell.state for cell in world.record.cells} == {"complete"}
    third = world.ablate(grid)
    assert (third.returncode, len(world.events("begin"))) == (0, 5)
    assert "3 complete already" in third.stderr


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_failures_and_a_killed_worker_stop_no_other_and_are_tried_again(world):
    grid = world.sweep(method__beta=[13.0, 14.0, 5.0])
    first = world.ablate(grid)
    assert first.returncode == 5
    cells = {cell.label: cell for cell in world.record.cells}
    assert {label: cell.state for label, cell in cells.items()} == {
        "13.0": "failed",
        "14.0": "failed",
        "5.0": "complete",
    }
    assert cells["13.0"].error == "beta 13 is bad luck"
    assert cells["14.0"].error.startswith("was killed by SIGKILL")
    assert (
        f"failed: beta 13.0: beta 13 is bad luck; log {world.record.folder / cells['13.0'].log}"
        in first.stderr
    )
    assert "2 of 3 cells failed; the same command tries them again" in first.stderr
    assert json.loads(first.stdout)["cells"][0]["state"] == "failed"

    second = world.ablate(grid)
    assert second.returncode == 5
    assert [cell.state for cell in world.record.cells] == ["failed", "complete", "complete"]
    assert "step 2" in " ".join(f"step {line}" for line in world.events("step"))
    assert max(Counter(world.events("step")).values()) == 1


@pytest.mark.parametrize("launcher", ["local", "ray", "slurm"])
def test_told_to_stop_all_save_and_leave(world, launcher):
    grid = world.sweep(method__beta=[5.0, 50.0])
    words = ["--jobs", "2", "--launcher", launcher]
    words += ["--slurm", "cluster=local"] if launcher == "slurm" else []
    with world.held("ablate", grid, *words, num=2) as process:
        process.send_signal(signal.SIGTERM)
        done = ended(process)
    assert done.returncode == 75, done.stderr
    assert "SIGTERM: 2 of 2 cells are still to be done; the same command goes on from there" in done.stderr
    assert not any(alive(int(line.split()[1])) for line in world.events("begin"))
    assert len(world.events("step")) == 6  # each took one more, and saved it
    assert [cell.state for cell in world.record.cells] == ["planned"] * 2
    again = world.ablate(grid)
    assert again.returncode == 0, again.stderr
    assert world.steps_once


def test_what_another_process_is_making_is_waited_for(world):
    grid = world.sweep(method__beta=[5.0, 50.0])
    with (
        world.held("run", "--set", "method.beta=5.0", "--seed", "0") as other,
        started(world.words("ablate", grid), **world.variables) as process,
    ):
        told = next(line for line in process.stderr if line.startswith("waiting: "))
        world.open()
        done = ended(process)
        assert ended(other).returncode == 0
    assert done.returncode == 0, done.stderr
    assert f"is in use by process {other.pid}" in told
    assert "beta 5.0: made by another process" in done.stderr
    assert len(world.events("begin")) == 2
    assert world.steps_once


def test_a_reward_model_is_trained_once_for_all_its_cells(world):
    grid = world.sweep(method__beta=[5.0, 50.0], reward__scale=[1.0, 13.0])
    done = world.ablate(grid, "--train-reward", "--jobs", "4")
    assert done.returncode == 5
    assert Counter(world.events("train")) == {"reward-1.0-0": 1, "reward-13.0-0": 1}
    reasons = [cell.error for cell in world.record.cells]
    assert reasons == [None, "its reward model was not trained: scale 13 is bad luck"] * 2
    assert [run for run in world.events("end") if not run.endswith("-own-reward")] == []
    assert "reward-0 model: ready after" in done.stderr
    logs = sorted(path.name for path in (world.record.folder / "logs").iterdir())
    assert [name for name in logs if name.startswith("reward-")] == ["reward-0.log", "reward-1.log"]


def test_two_drivers_of_one_sweep(world):
    grid = world.sweep(method__beta=[5.0])
    with world.held("ablate", grid) as process:
        second = finished(world.words("ablate", grid), **world.variables)
        world.open()
        assert ended(process).returncode == 0
    assert second.returncode == 2
    assert "is in use by process" in second.stderr
    assert len(world.events("begin")) == 1


def test_options_of_another_launcher_are_refused(world):
    grid = world.sweep(method__beta=[5.0])
    done = world.ablate(grid, "--address", "auto")
    assert (done.returncode, done.stderr.splitlines()[-1]) == (
        2,
        "error: --address is for --launcher ray, not local",
    )
    done = world.ablate(grid, "--launcher", "slurm", "--slurm", "cluster=nowhere")
    assert done.returncode == 2
    assert "launcher slurm: AutoExecutor doesn't know any executor named nowhere" in done.stderr
    assert not world.events("begin")


@pytest.mark.parametrize(
    ("slots", "words", "seen"),
    [
        ([{"OMP_NUM_THREADS": "1"}] * 3, ["--gpus", "3", "--set", "device=cpu"], ""),
        ([{"CUDA_VISIBLE_DEVICES": "0,1"}, {"CUDA_VISIBLE_DEVICES": "4,5"}], ["--gpus", "4"], "0,1,4,5"),
        ([{}], [], ""),
    ],
)
def test_what_all_others_wait_for_has_all_slots(tmp_path, monkeypatch, slots, words, seen):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    script = "import os, sys; print(sys.argv[1:]); print(os.environ.get('CUDA_VISIBLE_DEVICES', ''))"
    job = Job("reward", (sys.executable, "-c", script), tmp_path / "log", tmp_path, first=True)
    with Local(slots) as launcher:
        launcher.start(job)
        assert not launcher.room()
        wait_for(launcher.ended, "the job's end")
        assert launcher.room()
        launcher.start(replace(job, name="cell", first=False))
        assert launcher.room() == (len(slots) > 1)
    assert job.log.read_text().splitlines()[1:3] == [str(words), seen]


def test_slots(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert slots_for(None, None, [], 8, None) == [{}]
    assert slots_for(2, None, [], 8, None) == [{"OMP_NUM_THREADS": "4"}] * 2
    assert slots_for(3, 0, ["0"], 2, None) == [{"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}] * 3
    assert slots_for(None, None, ["0", "1"], 8, 2)[1] == {"CUDA_VISIBLE_DEVICES": "1", "OMP_NUM_THREADS": "2"}
    assert slots_for(None, 2, ["0", "3", "5", "6", "7"], 16, 4) == [
        {"CUDA_VISIBLE_DEVICES": "0,3", "OMP_NUM_THREADS": "4"},
        {"CUDA_VISIBLE_DEVICES": "5,6", "OMP_NUM_THREADS": "4"},
    ]
    assert slots_for(1, 1, ["GPU-a", "GPU-b"], 16, None) == [{"CUDA_VISIBLE_DEVICES": "GPU-a"}]
    with pytest.raises(UserError, match=r"3 job\(s\) of 1 GPU\(s\) at a time: 2 GPUs here"):
        slots_for(3, 1, ["0", "1"], 16, None)
    with pytest.raises(UserError, match="no GPUs here; --gpus 0 runs on the CPU"):
        slots_for(None, 1, [], 16, None)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert slots_for(2, None, [], 8, None) == [{}, {}]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("one\ntwo\n\n", "two"),
        ("error: no space left\n", "no space left"),
        ("Traceback\nValueError: x\nerror: unexpected; the traceback above\n", "ValueError: x"),
        ("error: no space left\n/usr/lib: a warning of something that ends\n", "no space left"),
        ("bar 1\rbar 2\r\n", "bar 2"),
        ("", ""),
    ],
)
def test_the_last_line_of_a_log(tmp_path, text, line):
    log = tmp_path / "log"
    log.write_bytes(b"before\n" + text.encode())
    assert last_line(log, len("before\n")) == line


def test_a_child_says_how_it_ended(tmp_path):
    for script, code, reason in (
        ("exit 0", 0, ""),
        ("exit 9", 9, "ended with code 9"),
        ("echo so >&2; exit 9", 9, "so"),
        ("kill -TERM $$", -15, "was killed by SIGTERM"),
    ):
        child = Child(Job("it", ("sh", "-c", script), tmp_path / "log", tmp_path, {"A": "1"}))
        child.process.wait()
        assert (child.ended().code, child.ended().reason) == (code, reason)
    assert (tmp_path / "log").read_text().count("UTC: it\n") == 4
