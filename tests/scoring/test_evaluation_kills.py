"""kill -9 at random moments of an evaluation; the script does more of it by hand."""

from pathlib import Path

from processes import worked


def test_a_killed_evaluation_resumes_to_the_same_bytes():
    script = Path(__file__).parent / "kill_evaluation.py"
    said = worked([script, "--kills", "4", "--renames", "6"], OMP_NUM_THREADS="1")
    assert said.splitlines()[0].startswith("63 files, equal after kills at 4 moments")
    assert "and before " in said
