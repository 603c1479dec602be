"""One process per run folder, and the dead hold nothing."""

import os
import signal

import pytest
from processes import started

from lpobench.lock import run_lock
from lpobench.plugin import UserError

HOLD = """
import sys
from pathlib import Path
from lpobench.lock import run_lock
with run_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    with started(["-c", HOLD, tmp_path]) as process:
        assert process.stdout.readline() == "held\n"
        yield process


def test_the_second_run_is_refused_and_told_who_holds_the_folder(tmp_path, holder):
    message = f"{tmp_path} is in use by process {holder.pid} on "
    with pytest.raises(UserError, match=message) as error, run_lock(tmp_path):
        pass
    assert error.value.exit_code == 2
    assert "\n" not in str(error.value)


def test_a_killed_process_holds_nothing(tmp_path, holder):
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with run_lock(tmp_path):
        assert (tmp_path / ".lock").read_text().startswith(f"{os.getpid()} ")


def test_the_lock_is_given_back(tmp_path):
    for _ in range(2):
        with run_lock(tmp_path / "new" / "folder"):
            pass
    assert (tmp_path / "new" / "folder" / ".lock").read_text() == ""


def test_an_error_inside_gives_it_back(tmp_path):
    with pytest.raises(RuntimeError), run_lock(tmp_path):
        raise RuntimeError
    with run_lock(tmp_path):
        pass


def test_a_folder_that_cannot_be_made_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    message = r"cannot write to .*: Not a directory; choose another --out"
    with pytest.raises(UserError, match=message), run_lock(tmp_path / "file" / "run"):
        pass


def test_one_may_wait_for_it(tmp_path, holder):
    told = []

    def wait(busy):
        told.append(str(busy))
        holder.stdin.close()
        holder.wait(60)

    with run_lock(tmp_path, wait):
        pass
    assert len(told) == 1
    assert f"in use by process {holder.pid}" in told[0]
