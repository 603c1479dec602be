"""`lpobench runs`: list, diff, verify, rm."""

import json

import pytest
from make_records import Maker

from lpobench.lock import run_lock


@pytest.fixture
def root(tmp_path):
    """Two finished runs, one stopped, one damaged, and what runs share."""
    maker = Maker(tmp_path, 12)
    maker.run("lpo-s0")
    maker.run("lpo-s1", seed=1, settings={"beta": 20.0}, device="cpu, 1 threads")
    maker.run("spoilt")
    (tmp_path / "spoilt" / "scores.csv").write_text("x")
    (tmp_path / "stopped" / "checkpoints" / "step-00000050").mkdir(parents=True)
    (tmp_path / "cache" / "base").mkdir(parents=True)
    return tmp_path


def test_list_says_how_far_each_run_is(cli, root):
    with run_lock(root / "stopped"):
        running = cli("runs", "list", "--out", str(root)).out
    lines = {line.split()[0]: line for line in cli("runs", "list", "--out", str(root)).out.splitlines()[1:]}
    assert list(lines) == ["lpo-s0", "lpo-s1", "spoilt", "stopped"]
    assert "complete  " in lines["lpo-s0"]
    assert "2026-01-02 03:04" in lines["lpo-s0"]
    assert "stopped at update 50" in lines["stopped"]
    assert "running, process " in running
    chosen = json.loads(cli("runs", "list", "lpo*", "--json", "--out", str(root)).out)
    assert [one["run"] for one in chosen] == ["lpo-s0", "lpo-s1"]


def test_diff_shows_what_differs_and_names_what_does_not(cli, root):
    out = cli("runs", "diff", "lpo-s0", "lpo-s1", "--out", str(root)).out
    assert "| method.beta | 500.0 | 20.0 |" in out
    assert "| device | cpu, 2 threads | cpu, 1 threads |" in out
    assert "lora.rank" not in out
    assert "the same: protocol" in out
    assert "| metric | a | b | b - a [95% interval] |" in out
    assert "same prompts, same noise" in out
    assert "| loss | 32 | 1 | " in out
    assert "accuracy | 32" not in out


def test_a_run_does_not_differ_from_itself(cli, root):
    out = cli("runs", "diff", "lpo-s0", "lpo-s0", "--out", str(root)).out
    assert "the same: settings, environment, protocol, curve, phase" in out
    assert "+0.0000 [+0.0000, +0.0000]" in out


@pytest.mark.parametrize(
    ("name", "message"),
    [("stopped", "stopped is not finished"), ("lpo*", '"lpo*" is several runs'), ("x", 'no run "x" in')],
)
def test_diff_needs_two_finished_runs(cli, root, name, message):
    done = cli("runs", "diff", name, "lpo-s0", "--out", str(root))
    assert done.code == 2
    assert message in done.err


def test_verify_finds_the_damaged_one(cli, root):
    done = cli("runs", "verify", "--out", str(root))
    assert done.code == 2
    assert "lpo-s0: whole, 2 files" in done.out
    assert "spoilt: scores.csv is changed" in done.out
    assert "stopped: not finished, nothing to verify" in done.err
    assert "1 of 3 runs is damaged: spoilt" in done.err
    whole = cli("runs", "verify", "lpo*", "--json", "--out", str(root))
    assert (whole.code, json.loads(whole.out)) == (0, {"lpo-s0": [], "lpo-s1": []})


def test_rm_asks_first(cli, root, monkeypatch):
    refused = cli("runs", "rm", "lpo-s0", "--out", str(root))
    assert refused.code == 2
    assert "nobody is there to be asked: add --yes" in refused.err
    dry = cli("runs", "rm", "lpo*", "--dry-run", "--out", str(root))
    assert [line.split(" (")[0] for line in dry.out.splitlines()] == [
        str(root / "lpo-s0"),
        str(root / "lpo-s1"),
    ]
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.confirm", lambda *words, **more: False)
    assert cli("runs", "rm", "lpo-s0", "--out", str(root)).code == 130
    assert (root / "lpo-s0").exists()


def test_rm_removes_what_it_is_told_and_nothing_else(cli, root):
    done = cli("runs", "rm", "lpo-s0", "--yes", "--out", str(root))
    assert (done.code, done.err) == (0, "removed 1 run\n")
    assert sorted(path.name for path in root.iterdir()) == ["cache", "lpo-s1", "spoilt", "stopped"]
    cli("runs", "rm", "--unfinished", "-y", "--out", str(root))
    assert sorted(path.name for path in root.iterdir()) == ["cache", "lpo-s1", "spoilt"]
    assert cli("runs", "rm", "--out", str(root)).code == 2
    assert cli("runs", "rm", "cache", "-y", "--out", str(root)).code == 2


def test_rm_leaves_what_is_in_use(cli, root):
    with run_lock(root / "stopped"):
        kept = cli("runs", "rm", "--unfinished", "-y", "--out", str(root))
        assert (kept.code, kept.out) == (0, "")
        refused = cli("runs", "rm", "stopped", "-y", "--out", str(root))
    assert refused.code == 2
    assert "stopped is in use by process" in refused.err
    assert (root / "stopped").exists()


def test_rm_tells_whose_cell_it_is(cli, tmp_path):
    Maker(tmp_path, 10).sweep({"0.1": [0.1, 0.1], "0.4": [0.4, 0.4]}, seeds=(0,))
    out = cli("runs", "rm", "sweep-1-s0", "--dry-run", "--out", str(tmp_path)).out
    assert "a cell of threshold-01234567)" in out


def test_rm_leaves_links_alone(cli, root, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / ".lock").touch()
    (root / "link").symlink_to(elsewhere)
    done = cli("runs", "rm", "link", "-y", "--out", str(root))
    assert done.code == 2
    assert "is a link: remove it yourself" in done.err
    assert elsewhere.exists()


def test_no_runs(cli, tmp_path):
    done = cli("runs", "list", "--out", str(tmp_path))
    assert (done.code, done.out, done.err) == (0, "", f"no runs in {tmp_path}\n")
