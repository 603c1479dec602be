"""Every expected error: one line on stderr, its exit code, nothing on stdout, nothing written."""

import errno
import sys
from types import SimpleNamespace

import pytest

from lpobench.cli.exits import Exit
from lpobench.plugin import UserError
from lpobench.signals import Preempted

pytestmark = pytest.mark.usefixtures("fakes")


def failing(monkeypatch, error):
    def execute(*args, **kwargs):
        raise error

    monkeypatch.setitem(sys.modules, "lpobench.run", SimpleNamespace(execute=execute))


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("run --reward latnt", 2, 'unknown reward "latnt"; did you mean "latent"? known: latent, pixel'),
        ("run --backbone toi", 2, 'unknown backbone "toi"; did you mean "toy"? known: other, toy'),
        ("run --method x", 2, 'unknown method "x"; known: idle, listwise, pairwise'),
        ("run --evaluators ruler,clok", 2, 'unknown evaluator "clok"; did you mean "clock"?'),
        ("run --set method.bta=3", 2, '--set method.bta is not a setting of pairwise; did you mean "beta"?'),
        ("run --set method.beta=abc", 2, '--set method.beta: should be a number, got "abc"'),
        ("run --backbone other", 2, "reward latent reads latents of toy-space, backbone other makes"),
        ("run -c nope.toml", 2, 'no recipe "nope.toml": neither a file nor built in; known: toy-pairwise'),
        ("run --set reward.weights=a.bin", 2, "--set reward.weights: a.bin is a pickle"),
        ("run --set reward.weights=absent", 3, "no reward in absent"),
        ("run --set backbone.weights=absent", 3, "toy: no weights at absent"),
        ("run --method idle --train-reward", 2, "method idle needs no reward, so there is none to train"),
        ("run --seed x", 2, "Invalid value for '--seed'"),
        ("run --seed -1", 2, "Invalid value for '--seed'"),
        ("run --limit 0", 2, "Invalid value for '--limit'"),
        ("run --sed 3", 2, "No such option: --sed"),
        ("rum", 2, "No such command 'rum'. Did you mean 'run'?"),
        ("reward trian", 2, "No such command 'trian'."),
        ("reward train --method idle", 2, "method idle needs no reward, so there is none to train"),
        ("list methds", 2, 'unknown kind "methds"; did you mean "methods"?'),
        ("show pairwize", 2, 'unknown name "pairwize"; did you mean "pairwise"? known: '),
        ("show", 2, "Missing argument 'NAME'"),
        ("show nope.toml", 2, 'no recipe "nope.toml"'),
        ("validate", 2, "Missing argument 'FILE...'"),
        ("report --out empty", 3, "no records in empty; `lpobench run` and `lpobench eval` write one"),
    ],
)  # fmt: skip
def test_one_line_and_the_documented_code(cli, fakes, words, code, message):
    done = cli(*words.split())
    lines = [line for line in done.err.splitlines() if not line.startswith("no built-in recipe")]
    assert len(lines) == 1
    assert lines[0].startswith(f"error: {message}")
    assert (done.code, done.out) == (code, "")
    assert list(fakes.iterdir()) == []


@pytest.mark.parametrize("verb", ["run", "run --dry-run", "reward train"])
def test_out_that_cannot_be_written_is_found_before_anything_is_loaded(cli, fakes, monkeypatch, verb):
    monkeypatch.setitem(sys.modules, "lpobench.run", None)  # importing it would raise
    (fakes / "file").write_text("")
    done = cli(*verb.split(), "--out", "file/runs")
    assert done.err == "error: cannot write to file/runs: Not a directory; choose another folder with --out\n"
    assert (done.code, done.out) == (2, "")
    assert [path.name for path in fakes.iterdir()] == ["file"]


def test_a_misspelt_key_of_a_recipe_names_file_and_key(cli, fakes):
    (fakes / "my.toml").write_text('[method]\nname = "pairwise"\nbta = 3\n')
    done = cli("run", "-c", "my.toml")
    assert done.err.startswith(
        'error: my.toml: method.bta is not a setting of pairwise; did you mean "beta"?'
    )


@pytest.mark.parametrize(
    ("error", "code", "last"),
    [
        (Preempted("stopped by SIGTERM"), Exit.PREEMPTED, "error: stopped by SIGTERM"),
        (UserError("two\n lines"), Exit.USAGE, "error: two lines"),
        (
            OSError(errno.ENOSPC, "no space", "x.png"),
            Exit.FAILED,
            "error: no space left on the disk of",
        ),
        (ZeroDivisionError("oops"), Exit.FAILED, "error: unexpected; the traceback above is what"),
        (OSError(errno.EIO, "broken"), Exit.FAILED, "error: unexpected; the traceback above is what"),
        (KeyboardInterrupt(), Exit.INTERRUPTED, ""),
    ],
)
def test_how_a_run_may_end(cli, monkeypatch, error, code, last):
    failing(monkeypatch, error)
    done = cli("run")
    assert (done.code, done.out) == (code, "")
    lines = done.err.splitlines() or [""]
    assert lines[-1].startswith(last)
    assert ("Traceback" in done.err) == ("unexpected" in last)


@pytest.mark.parametrize("words", ["--debug run", "run --debug"])
def test_debug_shows_the_traceback_of_an_expected_error_wherever_it_stands(cli, monkeypatch, words):
    failing(monkeypatch, UserError("expected"))
    done = cli(*words.split())
    assert done.err.startswith("Traceback")
    assert done.err.endswith("error: expected\n")
