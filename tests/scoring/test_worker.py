"""Workers: asked in lines, restarted once, cut off in time, and every failure told in one line."""

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import ClassVar

import processes
import pytest
import torch

from lpobench.plugin import EvaluatorSettings, Metric, MissingAsset, UserError
from lpobench.scoring import worker
from lpobench.scoring.isolated import Isolated, isolated
from lpobench.scoring.pictures import png
from lpobench.scoring.worker import Limits, Worker, WorkerError
from lpobench.types import Prompt

SCRIPT = Path(processes.__file__).parent / "fake_worker.py"


@pytest.fixture
def made():
    """Makes workers, and ends them."""
    workers = []

    def make(how="", limits=Limits(start_seconds=60, seconds=60), **options) -> Worker:  # noqa: B008
        command = [sys.executable, "-S", "-E", str(SCRIPT), how.replace(" ", "-")]
        workers.append(Worker("fake", {"how": how, **options}, limits, command))
        return workers[-1]

    yield make
    for each in workers:
        each.close()


@pytest.fixture
def items(tmp_path):
    for name in ("a", "bc"):
        (tmp_path / name).write_text(name)
    return [{"image": str(tmp_path / name), "prompt": name} for name in ("a", "bc")]


def test_one_process_answers_until_it_is_closed(made, items):
    with made() as fake:
        assert fake.start().about == {"versions": {"fake": "1"}, "offline": "1"}
        process = fake._process.process
        assert [fake.ask("score", items=items) for _ in range(3)] == [[1.0, 2.0]] * 3
        assert fake._process.process is process
    assert process.poll() is not None


def test_the_network_is_for_those_who_are_told(made, monkeypatch):
    monkeypatch.delenv("UV_OFFLINE", raising=False)
    assert made(limits=Limits(online=True)).start().about["offline"] is None


def test_what_would_leak_this_environment_is_not_inherited(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/x")
    monkeypatch.setenv("VIRTUAL_ENV", "/x")
    monkeypatch.setenv("HOME", "/home/me")
    inherited = worker.environment(Limits())
    assert not {"PYTHONPATH", "VIRTUAL_ENV"} & inherited.keys()
    assert inherited["HOME"] == "/home/me"
    assert all(inherited[name] == "1" for name in worker.OFFLINE)


def test_a_crash_is_forgiven_once(made, items, tmp_path):
    fake = made("dies once", once=str(tmp_path / "died"))
    assert fake.ask("score", items=items) == [1.0, 2.0]
    assert fake.restarts == 0
    assert fake.ask("score", items=items) == [1.0, 2.0]


@pytest.mark.parametrize(
    ("how", "kind", "message"),
    [
        ("dies", WorkerError, "worker fake ended with code 7: so long; it had been started again before"),
        ("rubbish", WorkerError, "worker fake printed what is no answer: 'Loading checkpoint shards: 100%'"),
        ("raises", WorkerError, "worker fake: ValueError: no such image"),
        ("missing", MissingAsset, "worker fake: no weights of the second model"),
        ("no weights", MissingAsset, "worker fake: no weights at None"),
        ("broken", WorkerError, "worker fake: RuntimeError: cannot load"),
        (
            "cannot start",
            MissingAsset,
            "worker fake has no environment on this machine, and may not download",
        ),
    ],
)
def test_failures_are_one_line(made, items, how, kind, message):
    fake = made(how)
    with pytest.raises(UserError) as caught:
        fake.ask("score", items=items)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
    assert type(caught.value) is kind
    assert caught.value.exit_code == {WorkerError: 4, MissingAsset: 3}[kind]


def test_one_that_hangs_is_killed_in_time(made, items):
    fake = made("hangs", Limits(start_seconds=60, seconds=0.3)).start()
    process = fake._process.process
    with pytest.raises(WorkerError, match=r"worker fake did not answer within 0\.3 s"):
        fake.ask("score", items=items)
    assert process.poll() is not None


def test_a_worker_dies_with_who_started_it():
    """Its stdin closes, however its owner died."""
    owner = f"""
import subprocess, sys, time
from lpobench.scoring.worker import Worker
fake = Worker("fake", {{}}, command=[sys.executable, "-S", "-E", {str(SCRIPT)!r}]).start()
print(fake._process.process.pid, flush=True)
time.sleep(60)
"""
    with processes.started(["-c", owner]) as process:
        number = int(process.stdout.readline())
        process.kill()
        processes.wait_for(lambda: not _alive(number), "the worker ends")


def _alive(number: int) -> bool:
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(number)], capture_output=True, text=True).stdout
    return bool(state.strip()) and not state.startswith("Z")


def test_without_uv_or_a_python_of_its_own_it_is_missing(monkeypatch):
    monkeypatch.setattr(worker.shutil, "which", lambda name: None)
    with pytest.raises(MissingAsset, match=r"worker hpsv2x needs uv.*\$LPOBENCH_PYTHON_HPSV2X"):
        worker.command_of("hpsv2x")
    monkeypatch.setenv("LPOBENCH_PYTHON_HPSV2X", "/opt/python")
    assert worker.command_of("hpsv2x") == ["/opt/python", str(worker.script_of("hpsv2x"))]
    monkeypatch.setattr(worker.shutil, "which", lambda name: "/bin/uv")
    assert worker.command_of("unidet")[:4] == ["/bin/uv", "run", "--no-project", "--script"]


def test_a_program_that_is_not_there(made):
    with pytest.raises(MissingAsset, match="cannot start /no/such/python"):
        Worker("fake", {}, command=["/no/such/python"]).start()


def test_every_script_says_what_it_needs():
    assert worker.names() == ["hpsv2x", "image-reward", "t2v-metrics", "unidet"]
    with pytest.raises(UserError, match='unknown worker "t2v-metric"; did you mean "t2v-metrics"'):
        worker.script_of("t2v-metric")
    for name in worker.names():
        lines = worker.script_of(name).read_text().splitlines()
        head = lines[lines.index("# /// script") + 1 : lines.index("# ///")]
        wanted = tomllib.loads("\n".join(line.removeprefix("#").removeprefix(" ") for line in head))
        assert wanted["requires-python"]
        assert wanted["dependencies"]
        assert any(line.startswith("serve(open=") for line in lines)


class Sizes(EvaluatorSettings):
    """Sizes of PNG files."""

    version: ClassVar = "1"
    metrics: ClassVar = {"size": Metric(0, 1e9, True, "bytes", "the file")}
    official: ClassVar = "fake"

    def official_options(self):
        return {"how": ""}


IMAGES = torch.rand((2, 3, 8, 8), generator=torch.Generator().manual_seed(0)).mul(255).round() / 255


def test_an_evaluator_in_a_worker(made):
    judge = Isolated(made(), "1", Sizes.metrics)
    scores = judge.score(IMAGES, [Prompt("x", "x"), Prompt("y", "y")])
    pixels = (IMAGES * 255).byte().movedim(1, -1).numpy()
    assert scores["size"].tolist() == [len(png(picture)) for picture in pixels]
    judge.close()
    assert judge.worker._process is None


def test_an_answer_that_is_no_score_for_each_image(made):
    with pytest.raises(WorkerError, match=r"answered '\[1\.0\]', which is not 2 numbers for size"):
        Isolated(made("few"), "1", Sizes.metrics).score(IMAGES, [Prompt("x", "x")] * 2)


def test_an_official_package_by_its_settings(monkeypatch):
    monkeypatch.setattr(
        "lpobench.scoring.worker.command_of", lambda name: [sys.executable, "-S", "-E", str(SCRIPT)]
    )
    judge = isolated("sizes", Sizes(), torch.device("cpu"), Limits())
    assert judge.worker.options == {"how": "", "device": "cpu"}
    judge.close()
    monkeypatch.setattr(Sizes, "official", None)
    with pytest.raises(UserError, match="evaluator sizes has no official package here"):
        isolated("sizes", Sizes(), torch.device("cpu"), Limits())
