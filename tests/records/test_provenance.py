"""Versions without importing packages, and the commit the code runs from."""

import subprocess

from lpobench.records.provenance import git_state, peak_resident_bytes, versions


def test_versions_name_what_can_change_a_number():
    assert {"python", "torch", "diffusers", "numpy", "scipy"} <= versions().keys()


def test_commit_and_dirty_flag(tmp_path):
    def git(*arguments):
        identity = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *identity, "-C", str(tmp_path), *arguments], check=True, capture_output=True)

    source = tmp_path / "code.py"
    source.write_text("1")
    assert git_state(source) is None  # no working tree
    git("init")
    assert git_state(source) is None  # somebody else's tree: the file is not tracked
    git("add", "code.py")
    git("commit", "-m", "one")
    clean = git_state(source)
    assert (len(clean.commit), clean.dirty) == (40, False)
    source.write_text("2")
    assert git_state(source).dirty


def test_memory_is_in_bytes():
    assert 10 * 2**20 < peak_resident_bytes() < 2**40
