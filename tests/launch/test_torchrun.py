"""`--gpus` and `--nodes`: what is started where, and how a failure comes back. The launched processes are light."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from fake_plugins import fakes  # noqa: F401
from processes import ended, finished, started, wait_for

from lpobench.cli import main
from lpobench.launch import environment, torchrun
from lpobench.launch.torchrun import Plan, plan_for
from lpobench.plugin import UserError

LAUNCHER = Path(__file__).parent / "launcher.py"
TWO = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    ("device", "gpus", "nodes", "present", "env", "plan"),
    [
        ("auto", 2, 1, 8, {}, Plan(2)),
        ("cuda", None, 1, 8, {}, Plan(8)),
        ("cpu", 3, 1, 0, {}, Plan(3)),
        ("cpu", None, 1, 8, {}, Plan(1)),
        ("auto", None, 2, 4, {"NODE_RANK": "1", "MASTER_ADDR": "a"}, Plan(4, 2, 1, "a", 29500)),
        (
            "cpu",
            1,
            2,
            0,
            {"NODE_RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "7"},
            Plan(1, 2, 0, "a", 7),
        ),
        (
            "auto",
            4,
            3,
            4,
            {"SLURM_NODEID": "2", "SLURM_JOB_NODELIST": "gpu[07-09]"},
            Plan(4, 3, 2, "gpu07", 29500),
        ),
    ],
)
def test_what_is_started(device, gpus, nodes, present, env, plan):
    assert plan_for(device, gpus, nodes, present, env) == plan


@pytest.mark.parametrize(
    ("device", "gpus", "nodes", "env", "message"),
    [
        ("auto", 2, 1, {}, "--gpus 2: this machine has 1 GPU; --set device=cpu starts as many"),
        ("cuda:1", 2, 1, {}, 'device auto, cuda or cpu, not "cuda:1"'),
        ("mps", None, 2, {}, 'not "mps"'),
        ("auto", 1, 2, {}, "--nodes 2 needs NODE_RANK .* and MASTER_ADDR"),
        ("auto", 1, 2, {"NODE_RANK": "0"}, "MASTER_ADDR"),
        ("auto", 1, 2, {"NODE_RANK": "2", "MASTER_ADDR": "a"}, "number is 2, they go from 0 to 1"),
    ],
)
def test_what_cannot_be_started(device, gpus, nodes, env, message):
    with pytest.raises(UserError, match=message):
        plan_for(device, gpus, nodes, 1, env)


@pytest.mark.parametrize(
    ("hosts", "first"),
    [
        ("gpu[07-09,12],login1", "gpu07"),
        ("a1,a2", "a1"),
        ("node3", "node3"),
        ("", ""),
        ("n[1,3]-ib", "n1"),
    ],
)
def test_first_host_of_a_slurm_list(hosts, first):
    assert torchrun._first_host(hosts) == first


def test_one_process_is_this_one(monkeypatch):
    monkeypatch.setattr(torchrun, "launch", None)  # would raise
    assert not torchrun.ran([], "auto", None, None)
    assert not torchrun.ran([], "cpu", 1, None)
    for name, value in TWO.items():
        monkeypatch.setenv(name, value)
    assert not torchrun.ran([], "cpu", 2, None)  # it is one of the two
    with pytest.raises(UserError, match="--gpus 3: torchrun has started 2 processes"):
        torchrun.ran([], "cpu", 3, None)


def test_a_place_needs_all_of_torchruns_words(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")  # some schedulers set it for their own ends
    assert environment.place() is None
    assert environment.is_main()
    for name, value in TWO.items():
        monkeypatch.setenv(name, value)
    assert environment.place() == environment.Place(1, 2, 1, 2)
    assert not environment.is_main()
    assert not environment.launched()


@pytest.mark.usefixtures("fakes")
def test_more_gpus_than_there_are_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(torchrun, "gpus_here", lambda: 1)
    for verb in ("run", "reward train"):
        assert main([*verb.split(), "--gpus", "2"]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert lines[-1].startswith("error: --gpus 2: this machine has 1 GPU; --set device=cpu")


@pytest.mark.usefixtures("fakes")
def test_the_launcher_starts_the_same_words(monkeypatch, capsys):
    started = []
    monkeypatch.setattr(torchrun, "launch", lambda plan, arguments: started.append((plan, arguments)))
    words = ["run", "--gpus", "2", "--set", "device=cpu", "--debug"]
    assert main(words) == 0
    assert started == [(Plan(2), ["-m", "lpobench", *words])]


@pytest.mark.usefixtures("fakes")
def test_only_the_main_process_prints(monkeypatch, capsys):
    for name, value in TWO.items():
        monkeypatch.setenv(name, value)
    assert main(["run", "--dry-run", "--json"]) == 0
    assert capsys.readouterr() == ("", "")


HEAD = """
import os, sys, signal, time
from lpobench.launch import environment
from lpobench.plugin import UserError
environment.die_with_parent()
rank = environment.place().rank

def fail(line, code, error=None):
    environment.report(line, error or UserError(line), code)
    sys.exit(code)
"""
PLACES = """
words = str(environment.place()), environment.launched(), os.environ["OMP_NUM_THREADS"]
open(f"{sys.argv[1]}/{rank}", "w").write(str(words))
"""
FAILURES = {
    "both": ("fail('all say this', 3)", "all say this", 3),
    "lost": (
        """
        said = f"{sys.argv[1]}/said"
        if rank == 1:
            environment.report('the reason', UserError(), 3)
            open(said, "w").close()
            sys.exit(3)
        while not os.path.exists(said):  # a connection is lost after its process has said why
            time.sleep(0.01)
        fail('lost another', 4, environment.PeerLost('lost another'))
        """,
        "the reason",
        3,
    ),
    "killed": (
        "os.kill(os.getpid(), 9) if rank == 1 else time.sleep(30)",
        "process 1 was killed by SIGKILL; the system kills so what takes too much memory",
        4,
    ),
    "mute": ("sys.exit(5 if rank == 0 else 0)", "process 0 ended with code 5", 5),
}


def launcher(folder, **bodies):
    """The words of launcher.py with these scripts; they know their `rank` and may `fail(line, code)`."""
    scripts = [folder / f"{name}.py" for name in bodies]
    for script, body in zip(scripts, bodies.values(), strict=True):
        script.write_text(HEAD + textwrap.dedent(body))
    return [LAUNCHER, folder, *scripts]


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """A folder of what one launcher left that ran a script that succeeds, then some that fail."""
    folder = tmp_path_factory.mktemp("launched")
    bodies = {name: body for name, (body, *_) in FAILURES.items()}
    done = finished(launcher(folder, places=PLACES, **bodies), OMP_NUM_THREADS=None)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")  # torchrun's own account is kept back
    return folder


def test_every_process_has_its_place(played):
    threads = max(1, os.cpu_count() // 2)
    for rank in range(2):
        place = f"Place(rank={rank}, world=2, local_rank={rank}, local_world=2)"
        assert (played / str(rank)).read_text() == f"('{place}', True, '{threads}')"
    assert outcome(played, "places") == {"error": None, "code": 0, "restored": True}


@pytest.mark.parametrize("name", FAILURES)
def test_how_a_failure_comes_back(played, name):
    _, message, code = FAILURES[name]
    assert outcome(played, name) == {"error": message, "code": code, "restored": True}


def outcome(folder, name):
    return json.loads((folder / f"{name}.json").read_text())


def test_the_reason_is_the_first_that_is_not_a_lost_process(tmp_path, monkeypatch):
    errors = environment.PeerLost("lost another"), UserError("the reason"), UserError("a later one")
    for rank, error in enumerate(errors):
        (tmp_path / str(rank)).mkdir()
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / str(rank) / "error.json"))
        environment.report(str(error), error, rank + 2)
    assert str(torchrun._reason(tmp_path)) == "the reason"
    assert torchrun._reason(tmp_path).exit_code == 3
    assert torchrun._reason(tmp_path / "empty") is None


def test_a_stop_signal_is_passed_on_and_its_outcome_comes_back(tmp_path):
    """The launcher is told to stop; its processes take their time to save, and leave with 75."""
    body = """
        def save(number, frame):
            time.sleep(0.3)
            fail('saved', 75)

        signal.signal(signal.SIGUSR1, save)
        open(f"{sys.argv[1]}/{rank}", "w").close()
        time.sleep(30)
    """
    with started(launcher(tmp_path, stopped=body)) as process:
        wait_for(lambda: all((tmp_path / str(rank)).exists() for rank in range(2)), "both start", process)
        process.send_signal(signal.SIGUSR1)
        done = ended(process)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert outcome(tmp_path, "stopped") == {"error": "saved", "code": 75, "restored": True}


@pytest.mark.skipif(sys.platform != "linux", reason="needs the kernel's help")
def test_processes_die_with_their_launcher(tmp_path):
    """The launcher is killed; a process that would sleep for five minutes is gone a moment later."""
    body = """
        open(f"{sys.argv[1]}/{rank}.part", "w").write(str(os.getpid()))
        os.rename(f"{sys.argv[1]}/{rank}.part", f"{sys.argv[1]}/{rank}")
        time.sleep(300)
    """
    files = [tmp_path / str(rank) for rank in range(2)]
    with started(launcher(tmp_path, sleepers=body)) as process:
        wait_for(lambda: all(file.exists() for file in files), "both start", process)
        pids = [int(file.read_text()) for file in files]
        assert all(map(runs, pids))
        process.kill()
        wait_for(lambda: not any(map(runs, pids)), "processes end with their launcher")


def runs(pid):
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout
    return bool(state.strip()) and not state.startswith("Z")
