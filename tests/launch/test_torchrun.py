"""`--gpus` and `--nodes`: what is started where, and how a failure comes back. The processes are light scripts."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from fake_plugins import fakes  # noqa: F401

from lpobench.cli import main
from lpobench.launch import environment, torchrun
from lpobench.launch.torchrun import Plan, launch, plan_for
from lpobench.plugin import UserError

ROOT = Path(__file__).parents[2]
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


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Start a script in two processes; it knows its `rank` and may `fail(line, code)`."""
    head = """
        import os, sys, signal, time
        from lpobench.launch import environment
        from lpobench.plugin import UserError
        environment.die_with_parent()
        rank = environment.place().rank

        def fail(line, code, error=None):
            environment.report(line, error or UserError(line), code)
            sys.exit(code)
    """
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    monkeypatch.setenv("PYTHONPATH", path)

    def run(body):
        script = tmp_path / "script.py"
        script.write_text(textwrap.dedent(head) + textwrap.dedent(body))
        return launch(Plan(2), [str(script), str(tmp_path)])

    return run


def test_every_process_has_its_place(start, tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = dict(os.environ), signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    start("""
        words = str(environment.place()), environment.launched(), os.environ["OMP_NUM_THREADS"]
        open(f"{sys.argv[1]}/{rank}", "w").write(str(words))
    """)
    threads = max(1, os.cpu_count() // 2)
    for rank in range(2):
        place = f"Place(rank={rank}, world=2, local_rank={rank}, local_world=2)"
        assert (tmp_path / str(rank)).read_text() == f"('{place}', True, '{threads}')"
    assert before == (dict(os.environ), signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT))


@pytest.mark.parametrize(
    ("body", "message", "code"),
    [
        ("fail('all say this', 3)", "all say this", 3),
        (
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
            "^the reason$",
            3,
        ),
        ("os.kill(os.getpid(), 9) if rank == 1 else time.sleep(30)", "process 1 was killed by SIGKILL", 4),
        ("sys.exit(5 if rank == 0 else 0)", "process 0 ended with code 5", 5),
    ],
)
def test_how_a_failure_comes_back(start, capfd, body, message, code):
    with pytest.raises(UserError, match=message) as error:
        start(body)
    assert error.value.exit_code == code
    assert capfd.readouterr() == ("", "")  # torchrun's own account is kept back


def test_the_reason_is_the_first_that_is_not_a_lost_process(tmp_path, monkeypatch):
    errors = environment.PeerLost("lost another"), UserError("the reason"), UserError("a later one")
    for rank, error in enumerate(errors):
        (tmp_path / str(rank)).mkdir()
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / str(rank) / "error.json"))
        environment.report(str(error), error, rank + 2)
    assert str(torchrun._reason(tmp_path)) == "the reason"
    assert torchrun._reason(tmp_path).exit_code == 3
    assert torchrun._reason(tmp_path / "empty") is None


def test_a_stop_signal_is_passed_on_and_its_outcome_comes_back(start, tmp_path):
    """The launcher is told to stop; its processes take their time to save, and leave with 75."""

    def stop_when_both_are_there():
        while not all((tmp_path / str(rank)).exists() for rank in range(2)):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGUSR1)

    thread = threading.Thread(target=stop_when_both_are_there)
    thread.start()
    with pytest.raises(UserError, match=r"^saved$") as error:
        start("""
            def save(number, frame):
                time.sleep(0.3)
                fail('saved', 75)

            signal.signal(signal.SIGUSR1, save)
            open(f"{sys.argv[1]}/{rank}", "w").close()
            time.sleep(30)
        """)
    thread.join()
    assert error.value.exit_code == 75


@pytest.mark.skipif(sys.platform != "linux", reason="needs the kernel's help")
def test_processes_die_with_their_launcher(start, tmp_path):
    """The launcher is killed; a process that would sleep for a minute is gone a moment later."""
    body = """
        open(f"{sys.argv[1]}/{rank}.part", "w").write(str(os.getpid()))
        os.rename(f"{sys.argv[1]}/{rank}.part", f"{sys.argv[1]}/{rank}")
        time.sleep(60)
    """
    launcher = os.fork()
    if launcher == 0:
        try:
            start(body)
        finally:
            os._exit(1)
    files = [tmp_path / str(rank) for rank in range(2)]
    while not all(file.exists() for file in files):
        time.sleep(0.02)
    os.kill(launcher, signal.SIGKILL)
    os.waitpid(launcher, 0)
    deadline = time.monotonic() + 20
    while any(_runs(int(file.read_text())) for file in files):
        assert time.monotonic() < deadline, "a process outlived its launcher"
        time.sleep(0.02)


def _runs(pid):
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout
    return bool(state.strip()) and not state.startswith("Z")
