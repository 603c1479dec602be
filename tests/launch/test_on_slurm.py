"""Jobs on a cluster outlive the sweep's own process: the same command finds them again."""

import json
import os
import signal

import fake_slurm
import pytest
from processes import ended, finished
from toy_world import World

GRID = {"method__beta": [5.0, 50.0]}


class Cluster(World):
    """A world with Slurm's commands."""

    def __init__(self, folder):
        super().__init__(folder)
        fake_slurm.install(folder / "bin")
        self.jobs = folder / "jobs"
        self.jobs.mkdir()

    @property
    def variables(self):
        path = f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        return {**super().variables, "PATH": path, "FAKE_SLURM": str(self.jobs)}

    @property
    def sweep_words(self):
        return ["ablate", self.sweep(**GRID), "--launcher", "slurm", "--slurm", "slurm_partition=gpu"]

    @property
    def submitted(self) -> int:
        return len(list(self.jobs.glob("*.pid")))


@pytest.fixture
def cluster(tmp_path):
    world = Cluster(tmp_path)
    yield world
    for path in world.jobs.glob("*.pid"):
        try:
            os.killpg(int(path.read_text()), signal.SIGKILL)
        except ProcessLookupError:
            continue


def test_the_driver_is_killed_and_its_jobs_go_on(cluster):
    with cluster.held(*cluster.sweep_words, num=2) as process:
        process.kill()
        process.wait()
    again = cluster.ablate(*cluster.sweep_words[1:])
    assert again.returncode == 0, again.stderr
    assert "in use" not in again.stderr
    assert cluster.submitted == 2
    assert len(cluster.events("begin")) == 2
    assert cluster.steps_once
    submitit = cluster.record.folder / "slurm"
    assert sorted(json.loads((submitit / "jobs.json").read_text()).values()) == ["1", "2"]
    texts = [path.read_text() for path in submitit.glob("*.sh")]
    assert texts
    assert all("#SBATCH --partition=gpu" in text and "#SBATCH --time=1440" in text for text in texts)


def test_told_to_stop(cluster):
    with cluster.held(*cluster.sweep_words, num=2) as process:
        process.send_signal(signal.SIGTERM)
        done = ended(process)
    assert done.returncode == 75, done.stderr
    assert (len(cluster.events("step")), len(cluster.events("end"))) == (6, 0)


def test_without_slurm(cluster):
    variables = {**cluster.variables, "PATH": os.environ["PATH"]}
    done = finished(cluster.words(*cluster.sweep_words), **variables)
    assert done.returncode == 2
    assert 'launcher slurm: Could not detect "srun"' in done.stderr
