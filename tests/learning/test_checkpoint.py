"""A checkpoint is whole or absent: killed, torn, full disk, stale leftovers."""

import errno
import json
import os
import shutil
import subprocess
import sys

import pytest
from processes import finished

from lpobench.learning import checkpoint
from lpobench.learning.checkpoint import StorageError, newest, save, sweep, verify

FILES = {"adapters.bin": b"weights", "state.json": lambda: b"{}"}


def test_saved_files_are_listed_with_size_and_hash(tmp_path):
    folder = save(tmp_path, 12, FILES, keep=2)
    assert folder.name == "step-00000012"
    manifest = json.loads((folder / "manifest.json").read_bytes())
    assert manifest["step"] == 12
    assert manifest["files"]["state.json"] == {
        "size": 2,
        "sha256": "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",  # sha256 of {}
    }
    assert verify(folder) is None
    assert newest(tmp_path) == folder


def test_only_the_newest_are_kept(tmp_path):
    for step in (1, 2, 10, 100_000_000):
        save(tmp_path, step, FILES, keep=2)
    assert sorted(os.listdir(tmp_path)) == ["step-00000010", "step-100000000"]
    assert newest(tmp_path).name == "step-100000000"


def test_no_checkpoint_is_no_checkpoint(tmp_path):
    assert newest(tmp_path) is None
    assert newest(tmp_path / "missing") is None


def _truncate(folder):
    os.truncate(folder / "adapters.bin", 3)


def _flip(folder):
    (folder / "adapters.bin").write_bytes(b"Weights")


def _lose(folder):
    (folder / "state.json").unlink()


def _tear_manifest(folder):
    os.truncate(folder / "manifest.json", 20)


def _no_manifest(folder):
    (folder / "manifest.json").unlink()


@pytest.mark.parametrize("damage", [_truncate, _flip, _lose, _tear_manifest, _no_manifest])
def test_a_damaged_checkpoint_is_passed_over_named_and_replaced(tmp_path, capsys, damage):
    good = save(tmp_path, 3, FILES, keep=3)
    bad = save(tmp_path, 6, FILES, keep=3)
    worse = save(tmp_path, 9, FILES, keep=3)
    damage(bad)
    damage(worse)
    assert newest(tmp_path) == good
    warning = capsys.readouterr().err
    assert str(bad) in warning
    assert str(worse) in warning

    assert newest(tmp_path) == good
    save(tmp_path, 6, FILES, keep=3)  # training went on from 3 and comes by here again
    assert newest(tmp_path) == bad
    assert sorted(os.listdir(tmp_path)) == ["step-00000003", "step-00000006"]


@pytest.mark.parametrize("call", range(4))
def test_full_disk_costs_the_new_checkpoint_only(tmp_path, monkeypatch, call):
    """fsync is where a delayed allocation fails: at the first file, the second, the manifest, the folder."""
    old = save(tmp_path, 3, FILES, keep=1)
    calls = iter(range(100))

    def full(descriptor):
        if next(calls) == call:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint.os, "fsync", full)
    with pytest.raises(StorageError, match=r"step-00000006 could not .*intact: No space left") as error:
        save(tmp_path, 6, FILES, keep=1)
    assert error.value.exit_code == 4
    assert "\n" not in str(error.value)
    assert os.listdir(tmp_path) == [old.name]
    assert newest(tmp_path) == old


def test_a_file_that_cannot_be_made_leaves_no_trace(tmp_path):
    def fails() -> bytes:
        raise RuntimeError("no bytes today")

    with pytest.raises(RuntimeError, match="no bytes"):
        save(tmp_path, 1, {"a": b"a", "b": fails}, keep=1)
    assert os.listdir(tmp_path) == []


KILLED_AT_EVERY_MOMENT = """
import os, shutil, signal, sys
from pathlib import Path
from lpobench.learning import checkpoint

root, files = Path(sys.argv[1]), {"adapters.bin": b"weights", "state.json": b"{}"}

def killing(function, left):
    def call(*args, **kwargs):
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return call

for moment in range(100):
    folder = root / str(moment)
    checkpoint.save(folder, 3, files, keep=1)
    child = os.fork()
    if child == 0:
        left = [moment]
        for module, names in {os: ["fsync", "rename"], Path: ["rename", "mkdir"], shutil: ["rmtree"]}.items():
            for name in names:
                setattr(module, name, killing(getattr(module, name), left))
        checkpoint.save(folder, 6, files, keep=1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    found = checkpoint.newest(folder)
    checkpoint.sweep(folder)
    print(os.WIFSIGNALED(status), checkpoint.step_of(found), *sorted(os.listdir(folder)))
    if not os.WIFSIGNALED(status):
        break
"""


def test_killed_at_any_moment_the_newest_whole_checkpoint_is_found(tmp_path):
    """kill -9 before the n-th operation on the disk, for every n: the old one is found, then the new one."""
    done = finished(["-c", KILLED_AT_EVERY_MOMENT, tmp_path])
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    found = [int(line[1]) for line in lines]
    assert found == sorted(found)
    assert set(found) == {3, 6}
    assert found.count(3) >= 6  # two files, the manifest, the folder, the rename, ...
    for killed, step, *listed in lines:
        assert f"step-{int(step):08d}" in listed
        assert all(name.startswith("step-") for name in listed)
        assert killed == "True" or listed == ["step-00000006"]
    assert done.stderr == ""  # nothing half-written was ever visible as a checkpoint


def test_only_leftovers_of_dead_processes_are_swept(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    dead, own, alive, foreign = (
        tmp_path / f".tmp-step-00000003-{tail}" for tail in (process.pid, os.getpid(), os.getppid(), "x")
    )
    for folder in (dead, own, alive, foreign):
        folder.mkdir()
        (folder / "adapters.bin").write_bytes(b"half")
    sweep(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([alive, foreign])
    shutil.rmtree(alive)
