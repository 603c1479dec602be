"""kill -9 at random moments of scoring and encoding; the script does more of it by hand."""

import os
import subprocess
import sys
from pathlib import Path


def test_a_killed_scoring_or_encoding_resumes_to_the_same_bytes():
    script = Path(__file__).parent / "kill_curation.py"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(script), "--kills", "4", "--rows", "45"],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == ["score", "score", "encode", "encode"]
