"""Synthetic runs and sweeps: records, scores and logs as runs leave them, in a second or so per hundred.

python tests/make_records.py FOLDER [--num 1000] [--prompts 600] [--seeds 4]
"""

import argparse
import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from lpobench.hashing import file_sha256
from lpobench.records.bootstrap import intervals
from lpobench.records.record import Cost, Group, Paired, Protocol, RunRecord
from lpobench.records.sweep import Axis, Cell, Sweep

METRICS = {"correct": 0.6, "alignment": 0.88, "aesthetics": 0.7, "lrm": 1.5}
BACKBONES, METHODS, REWARDS = ("tiny-sd15", "tiny-sdxl"), ("lpo", "spo", "ddpo", "step_grpo"), ("lrm", "spm")
TASKS = ("colors", "counting", "position")
TIMES = range(951, 0, -50)
WHEN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def protocol(prompts: int, **changes) -> Protocol:
    values = {
        "source": "shapes",
        "num_prompts": prompts,
        "num_texts": len(texts(prompts)),
        "prompts_sha256": f"{prompts:064}",
        "images_per_prompt": 1,
        "num_steps": 20,
        "guidance_scale": 5.0,
        "seed": 1,
        "confidence": 0.95,
        "bootstrap_samples": 10_000,
        "evaluators": {"shapes": "1", "lrm": "0123456789ab"},
    }
    return Protocol(**values | changes)


def texts(prompts: int) -> set[str]:
    return {text(place) for place in range(prompts)}


def text(place: int) -> str:
    """Some prompts share a text, some have a comma or a quote."""
    return f'prompt {place // 3}, "quoted"' if place % 7 == 0 else f"prompt {place // 3}"


class Maker:
    """Runs below one folder; those of one backbone share the base's scores."""

    def __init__(self, root: Path, prompts: int = 600, **changes):
        self.root, self.prompts = root, prompts
        self.protocol = protocol(prompts, **changes)
        self.bases: dict[str, np.ndarray] = {}

    def run(
        self,
        name: str,
        *,
        backbone="tiny-sd15",
        method="lpo",
        reward="lrm",
        seed=0,
        gain=0.02,
        settings=(),
        **changes,
    ) -> RunRecord:
        """One finished run, `gain` better than its base on the whole; `settings` are of its method."""
        folder = self.root / name
        folder.mkdir(parents=True)
        base = self.base(backbone)
        noise = np.random.default_rng([seed, len(name), *name.encode()])
        theirs = base + gain * noise.exponential(size=base.shape)
        theirs[:, 0] = (noise.random(len(base)) < base.mean(0)[0] + gain).astype(float)
        self._scores(folder, method, base, theirs)
        self._log(folder, noise)
        change = theirs - base
        low, high = intervals(change, [text(place) for place in range(self.prompts)], 0.95, 400, 0)
        metrics = {
            metric: Paired(
                mean_base=base[:, place].mean(),
                mean_method=theirs[:, place].mean(),
                difference=change[:, place].mean(),
                low=low[place],
                high=high[place],
                win_rate=np.mean(change[:, place] > 0) + np.mean(change[:, place] == 0) / 2,
                num_prompts=self.prompts,
            )
            for place, metric in enumerate(METRICS)
        }
        groups = {
            task: Group(num_prompts=self.prompts // 3, mean_base=0.5, mean_method=0.5 + gain)
            for task in TASKS
        }
        return RunRecord(
            **{
                "id": name,
                "spec": self._spec(backbone, method, reward, seed, dict(settings)),
                "backbone": backbone,
                "method": method,
                "reward": reward,
                "seed": seed,
                "limit": None,
                "trained": True,
                "trained_reward": None,
                "base": "f" * 32,
                "started": WHEN,
                "finished": WHEN,
                "versions": {"python": "3.12.0", "lpobench": "0.1.0"},
                "git": None,
                "device": "cpu, 2 threads",
                "costs": {
                    "load": Cost(seconds=9),
                    "collect": Cost(seconds=100 + seed, calls=1280, rows=40_000 + 7919 * len(method)),
                    "update": Cost(seconds=50, calls=128, rows=18_000),
                    f"generate {method}": Cost(seconds=40, calls=240, rows=24_000),
                },
                "reused": ("generate none",),
                "peak_memory_bytes": 2**31,
                "protocol": self.protocol,
                "metrics": metrics,
                "scored_by": {metric: "lrm" if metric == "lrm" else "shapes" for metric in METRICS},
                "trained_on": ("lrm",) if reward == "lrm" else (),
                "groups": {metric: groups if metric == "correct" else {} for metric in METRICS},
                "check": "correct",
                "training": self._training(noise, dict(settings).get("min_gap", (0.35, 0.5))),
                "files": {name: file_sha256(folder / name) for name in ("scores.csv", "metrics.jsonl")},
                **changes,
            }
        ).write(folder)

    def sweep(self, values: dict[str, list[float]], seeds=(0, 1, 2)) -> Sweep:
        """Over the threshold's ranges by their labels, the second of them being the recipe's own."""
        cells = []
        for place, (label, bounds) in enumerate(values.items()):
            for seed in seeds:
                name = f"sweep-{place}-s{seed}"
                self.run(name, seed=seed, gain=0.01 * (place + 1), settings={"min_gap": bounds})
                known = {"label": label, "values": {"method.min_gap": bounds}, "seed": seed, "run": name}
                cells.append(Cell(**known, command="lpobench run", state="complete"))
        made = Sweep(
            id="threshold-01234567",
            name="threshold",
            title="smallest margin kept",
            axes=(Axis(key="method.min_gap", label="threshold"),),
            baseline=list(values)[1],
            command="lpobench ablate threshold",
            seeds=tuple(seeds),
            started=WHEN,
            finished=WHEN,
            cells=tuple(cells),
        )
        return made.write(self.root / "sweeps" / made.id)

    def base(self, backbone: str) -> np.ndarray:
        if backbone not in self.bases:
            noise = np.random.default_rng([*backbone.encode()])
            scores = np.stack([noise.normal(mean, 0.1, self.prompts) for mean in METRICS.values()], axis=1)
            scores[:, 0] = noise.random(self.prompts) < METRICS["correct"]
            self.bases[backbone] = scores
        return self.bases[backbone]

    def _scores(self, folder: Path, method: str, base: np.ndarray, theirs: np.ndarray) -> None:
        lines = [",".join(("variant", "prompt_id", "image", "prompt", "task", *METRICS))]
        for variant, scores in (("none", base), (method, theirs)):
            for place, row in enumerate(scores.tolist()):
                words = text(place)
                quoted = '"' + words.replace('"', '""') + '"' if "," in words else words
                label = f"{variant},shapes-eval-{place:05},0,{quoted},{TASKS[place % 3]},"
                lines.append(label + ",".join(map(repr, row)))
        (folder / "scores.csv").write_text("\n".join(lines) + "\n")

    def _log(self, folder: Path, noise: np.random.Generator) -> None:
        lines = []
        for update in range(1, 33):
            loss, reward = (
                0.69 - 0.005 * update + 0.01 * noise.normal(),
                0.02 * update + 0.05 * noise.normal(),
            )
            line = {"update": update, "round": update, "round_rows": 70, "rows": 70, "reward": reward}
            lines.append(json.dumps({**line, "loss": loss, "accuracy": 0.5 + update / 100, "seconds": 1.0}))
        (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")

    def _spec(self, backbone: str, method: str, reward: str, seed: int, settings: dict) -> dict:
        return {
            "backbone": {"name": backbone, "weights": "default"},
            "method": {"name": method, "beta": 500.0, "min_gap": [0.35, 0.5], **settings},
            "reward": {"name": reward},
            "evaluators": [{"name": "shapes"}],
            "sampling": {"num_steps": 20, "guidance_scale": 5.0, "rule": "ddim", "eta": 1.0},
            "lora": {"rank": 8, "alpha": None, "init": "gaussian"},
            "train": {"num_updates": 64, "precision": "fp32", "learning_rate": 1e-4, "betas": [0.9, 0.999]},
            "eval": {"prompts": "shapes", "num_prompts": self.prompts, "seed": 1},
            "checkpoint": None,
            "seed": seed,
            "device": "auto",
        }

    def _training(self, noise: np.random.Generator, bounds: tuple[float, float]) -> dict:
        kept = {str(t): int(64 * (3 - 2 * bounds[0] + t / 300 + noise.random())) for t in TIMES}
        thresholds = {str(t): bounds[0] + (bounds[1] - bounds[0]) * t / 951 for t in TIMES}
        return {"updates": 64, "rounds": 64, "scored": 40_960, "rows_by_t": kept, "thresholds": thresholds}


def make_many(root: Path, num: int, prompts: int, seeds: int) -> None:
    """`num` runs, in families of `seeds`, spread over backbones, methods, rewards and betas."""
    maker = Maker(root, prompts)
    for place in range(num):
        family, seed = divmod(place, seeds)
        backbone = BACKBONES[family % len(BACKBONES)]
        method = METHODS[family // 2 % len(METHODS)]
        reward = REWARDS[family // 8 % len(REWARDS)]
        settings = {"beta": float(10 + family // 16)}
        name = f"{backbone}-{method}-{reward}-s{seed}-{family:08x}"
        maker.run(
            name,
            backbone=backbone,
            method=method,
            reward=reward,
            seed=seed,
            gain=0.0003 * family,
            settings=settings,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    for option, usual in (("--num", 1000), ("--prompts", 600), ("--seeds", 4)):
        parser.add_argument(option, type=int, default=usual)
    wanted = parser.parse_args()
    make_many(wanted.folder, wanted.num, wanted.prompts, wanted.seeds)
