"""A folder in which sweeps of toys run, see toy_lpobench.py."""

import json
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

from processes import finished, started, wait_for

from lpobench.records.sweep import Sweep, read_sweeps

TOY = Path(__file__).parent / "toy_lpobench.py"
RECIPE = """\
# Pairs on the toy.
backbone = "toy"
method = "pairwise"
reward = "latent"
"""


class World:
    """A folder with a recipe, sweeps and a journal of what the toys did."""

    def __init__(self, folder: Path):
        self.folder, self.out = folder, folder / "runs"
        self.journal, self.gate = folder / "journal", folder / "gate"
        (folder / "recipes").mkdir()
        (folder / "recipes" / "toy-pairwise.toml").write_text(RECIPE)

    def sweep(self, **axes) -> str:
        """The file of a grid."""
        lines = [f'"{key.replace("__", ".")}" = {json.dumps(values)}' for key, values in axes.items()]
        path = self.folder / "grid.toml"
        path.write_text("[sweep]\n" + "\n".join(lines) + "\n")
        return str(path)

    @property
    def variables(self):
        return {
            "TOY_JOURNAL": str(self.journal),
            "TOY_RECIPES": str(self.folder / "recipes"),
            "TOY_GATE": str(self.gate),
            "CUDA_VISIBLE_DEVICES": "",
        }

    def open(self):
        """Runs go on after their second step."""
        self.gate.touch()

    def words(self, *words, out=None):
        return [TOY, *words, "--out", out or self.out, "--json"]

    def ablate(self, *words):
        """To its end, through an open gate."""
        self.open()
        return finished(self.words("ablate", *words), **self.variables)

    @contextmanager
    def held(self, *words, num=1):
        """A command whose first `num` runs have come to the gate."""
        with started(self.words(*words), **self.variables) as process:
            wait_for(lambda: len(self.events("step")) == 2 * num, f"{num} runs at the gate", process)
            yield process

    def events(self, kind: str) -> list[str]:
        """What follows that word in the journal."""
        lines = self.journal.read_text().splitlines() if self.journal.exists() else []
        return [line.removeprefix(f"{kind} ") for line in lines if line.startswith(f"{kind} ")]

    @property
    def steps_once(self) -> bool:
        """Four steps of every run that has ended, none of them twice."""
        steps, runs = Counter(self.events("step")), self.events("end")
        return max(steps.values()) == 1 and len(steps) == 4 * len(runs) and len(set(runs)) == len(runs)

    @property
    def record(self) -> Sweep:
        (sweep,) = read_sweeps(self.out)
        return sweep
