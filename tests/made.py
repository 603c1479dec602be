"""Records and whole runs to test with: a record by hand, and plug-ins that make `execute` take a second."""

from datetime import UTC, datetime
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import ClassVar, Literal

import pandas as pd

from backbones.gaussian import Gaussian
from lpobench import registry
from lpobench.plugin import BackboneSettings, EvaluatorSettings, Metric, RewardSettings, UserError
from lpobench.records.record import Cost, Group, Paired, Protocol, RunRecord
from lpobench.sampling import VariancePreserving
from lpobench.spec import RunSpec
from methods.lpo import LPO
from methods.none import NoTraining


def paired(difference=0.05, **changes) -> Paired:
    low, high = difference - 0.02, difference + 0.03
    values = {
        "mean_base": 0.5,
        "mean_method": 0.5 + difference,
        "difference": difference,
        "low": low,
        "high": high,
    }
    return Paired(**{**values, "win_rate": 0.625, "num_prompts": 8, **changes})


def protocol(**changes) -> Protocol:
    values = {
        "source": "shapes",
        "num_prompts": 600,
        "num_texts": 231,
        "prompts_sha256": "0" * 64,
        "images_per_prompt": 1,
        "num_steps": 20,
        "guidance_scale": 5.0,
        "seed": 7,
        "confidence": 0.95,
        "bootstrap_samples": 1000,
        "evaluators": {"shapes": "1"},
    }
    return Protocol(**values | changes)


def record(**changes) -> RunRecord:
    values = {
        "id": "tiny-sd15-lpo-s0-0123abcd",
        "spec": {"method": {"name": "lpo", "beta": 500.0}, "seed": 0, "device": "auto"},
        "backbone": "tiny-sd15",
        "method": "lpo",
        "reward": "lrm",
        "seed": 0,
        "limit": None,
        "trained": True,
        "trained_reward": None,
        "base": "f" * 32,
        "started": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        "finished": datetime(2026, 1, 2, 3, 9, 5, tzinfo=UTC),
        "versions": {"python": "3.12.0"},
        "git": None,
        "device": "cpu, 2 threads",
        "costs": {
            "load": Cost(seconds=2.5),
            "update": Cost(seconds=100.25, calls=1200, rows=2400, decodes=80),
            "generate none": Cost(),
        },
        "reused": ("generate none",),
        "peak_memory_bytes": 3 * 2**29,
        "protocol": protocol(),
        "metrics": {"correct": paired(), "distance": paired(-0.1, mean_base=20.0, higher_is_better=False)},
        "groups": {
            "correct": {"counting": Group(num_prompts=100, mean_base=0.25, mean_method=0.5)},
            "distance": {},
        },
        "check": "correct",
        "training": {"updates": 120},
        "files": {},
    }
    return RunRecord(**values | changes)


def seed_run(root: Path, seed: int, method: list[float], base: list[float], **changes) -> RunRecord:
    """A finished run of one seed: one image for each of the prompts a, b, c, ..."""
    folder = root / f"run-s{seed}"
    folder.mkdir()
    names = "abcdefgh"[: len(base)]
    tables = [
        pd.DataFrame(
            {
                "variant": v,
                "prompt_id": list(names),
                "image": 0,
                "prompt": list(names),
                "task": "",
                "correct": x,
            }
        )
        for v, x in (("none", base), ("lpo", method))
    ]
    pd.concat(tables).to_csv(folder / "scores.csv", index=False)
    difference = sum(method) / len(method) - sum(base) / len(base)
    spec = {"method": {"name": "lpo", "beta": 500.0}, "seed": seed, "device": "auto"}
    values = {"id": folder.name, "seed": seed, "spec": spec, "metrics": {"correct": paired(difference)}}
    return record(**{**values, "groups": {}, **changes}).write(folder)


class Toy(BackboneSettings):
    """The Gaussian backbone, which loads in no time."""

    scale: float = 0.5
    """standard deviation of x0"""

    @property
    def latent_space(self):
        return "gaussian"

    def load(self, device, dtype):
        return Gaussian(VariancePreserving.scaled_linear(), self.scale, dtype)


class Brighter(RewardSettings):
    """Prefers larger latents."""

    sign: Literal[1, -1] = 1
    """-1 prefers smaller ones"""

    def load(self, backbone, device, dtype):
        return self

    @property
    def differentiable(self):
        return True

    def score(self, noisy):
        return self.sign * 8 * noisy.latents.float().mean((1, 2, 3))

    def train(self, backbone, folder, *, seed, device, dtype):
        (folder / "trained").write_text(f"{seed}")
        return self.model_copy(update={"sign": -1})


class Untrainable(RewardSettings):
    """Has no training."""


class Meter(EvaluatorSettings):
    """Mean brightness, and whether it is above one half."""

    version: ClassVar = "3"
    metrics: ClassVar = {
        "light": Metric(0, 1, True, "share of white", "mean of all pixels"),
        "bright": Metric(0, 1, True, "yes or no", "light > 1/2"),
    }

    def load(self, device, dtype):
        return self

    def score(self, images, prompts):
        light = images.mean((1, 2, 3)).tolist()
        return pd.DataFrame({"light": light, "bright": [value > 0.5 for value in light]})


class Broken(Meter):
    """Cannot be loaded."""

    def load(self, device, dtype):
        raise UserError("evaluator broken: cannot read its weights")


NAMES = {
    "backbones": {"toy": Toy},
    "methods": {"lpo": LPO, "none": NoTraining},
    "rewards": {"brighter": Brighter, "untrainable": Untrainable},
    "evaluators": {"meter": Meter, "broken": Broken},
}


def register_toys(monkeypatch) -> None:
    """The plug-ins above and no others, until the test ends."""

    def table(kind):
        return {n: EntryPoint(n, f"{c.__module__}:{c.__name__}", kind) for n, c in NAMES[kind].items()}

    monkeypatch.setattr(registry, "table", table)


def toy_spec(folder: Path, **changes) -> RunSpec:
    """A run of three updates scored on six prompts; prompts of the Gaussian backbone are numbers."""
    learned, scored = folder / "train.txt", folder / "eval.csv"
    learned.write_text("".join(f"{i}\n" for i in range(100, 116)))
    scored.write_text("prompt,task\n" + "".join(f"0.{i},{'ab'[i % 2]}\n" for i in range(1, 7)))
    train = {"num_updates": 3, "prompts": str(learned), "prompts_per_round": 4, "minibatch": 8}
    evaluation = {"prompts": str(scored), "num_steps": 4, "guidance_scale": 1.0, "batch_size": 4}
    values = {
        "backbone": {"name": "toy"},
        "method": {"name": "lpo", "min_gap": (0.0, 0.0)},
        "reward": {"name": "brighter"},
        "evaluators": ({"name": "meter"},),
        "sampling": {"num_steps": 6, "guidance_scale": 1.0},
        "train": train | {"learning_rate": 0.1} | changes.pop("train", {}),
        "eval": evaluation | {"bootstrap_samples": 200, "grid_prompts": 3} | changes.pop("eval", {}),
        "device": "cpu",
    }
    return RunSpec.model_validate(values | changes)
