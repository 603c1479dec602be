"""kill -9 at random moments of an evaluation; the script does more of it by hand."""

from pathlib import Path

from processes import worked


def test_a_killed_evaluation_resumes_to_the_same_bytes():
    script = Path(__file__).parent / "kill_evaluation.py"
    said = worked([script, "--kills", "2", "--renames", "2"], OMP_NUM_THREADS="1")
    first, second = said.splitlines()
    assert first.startswith("39 files, equal after kills at 2 moments")
    assert second == "and before 3 of its renames"
