"""kill -9 at random moments of scoring and encoding; the script does more of it by hand."""

from pathlib import Path

from processes import worked


def test_a_killed_scoring_or_encoding_resumes_to_the_same_bytes():
    script = Path(__file__).parent / "kill_curation.py"
    said = worked([script, "--kills", "4", "--rows", "45"], OMP_NUM_THREADS="1")
    assert [line.split(":")[0] for line in said.splitlines()] == ["score", "score", "encode", "encode"]
