"""A command line of `lpobench` whose runs are toys: they train nothing, in four steps.

It is its own cells' program. What happens is noted in TOY_JOURNAL, a line each; TOY_RECIPES holds the recipe; after two
steps a run waits until the file TOY_GATE is there.
"""

import os
import signal
import sys
import time
import types
from datetime import UTC, datetime
from importlib.metadata import EntryPoint
from pathlib import Path

import fake_plugins

from lpobench import draft, registry, slots
from lpobench.ablation import drive
from lpobench.cli import main
from lpobench.launch.environment import die_with_parent
from lpobench.lock import run_lock
from lpobench.plugin import UserError
from lpobench.records.record import Cost, Paired, Protocol, RunRecord, find_complete, inventory, run_name
from lpobench.signals import Preempted, StopFlag

STEPS = 4


def note(line):
    journal = os.open(os.environ["TOY_JOURNAL"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(journal, f"{line}\n".encode())
    os.close(journal)


def execute(spec, out, *, resume=True, limit=None, train_reward=False):
    """A record of numbers that follow from the settings; interrupted, it goes on from its last step."""
    folder = out / run_name(spec.id, limit, train_reward)
    if done := find_complete(folder):
        return done
    with run_lock(folder), StopFlag() as stop:
        if train_reward:
            train_reward_only(spec, out)
        beta, file = spec.method.beta, folder / "steps"
        note(f"begin {folder.name} {os.getpid()}")
        for step in range(int(file.read_text()) if file.exists() else 0, STEPS):
            while step == 2 and not Path(os.environ["TOY_GATE"]).exists() and not stop.requested:
                time.sleep(0.02)
            file.write_text(str(step + 1))
            note(f"step {step} {folder.name}")
            if stop.requested:
                raise Preempted(f"saved at step {step + 1}")
            if beta == 13:
                raise UserError("beta 13 is bad luck")
            if beta == 14 and step == 1:
                os.kill(os.getpid(), signal.SIGKILL)
        (folder / "scores.csv").write_text(scores(beta + spec.seed))
        made = record(spec, folder).write(folder)
        note(f"end {folder.name}")
        return made


def scores(gain):
    """Of four prompts, which the method has better by `gain`, give or take one."""
    base = [f"none,p{prompt},0,prompt {prompt},,{prompt}" for prompt in range(4)]
    better = [f"pairwise,p{prompt},0,prompt {prompt},,{prompt + gain + prompt % 2}" for prompt in range(4)]
    return "\n".join(["variant,prompt_id,image,prompt,task,length", *base, *better]) + "\n"


def record(spec, folder):
    gain, now = spec.method.beta + spec.seed + 0.5, datetime.now(UTC)
    paired = {"mean_base": 1.5, "mean_method": 1.5 + gain, "difference": gain, "low": gain, "high": gain}
    return RunRecord(
        id=folder.name,
        spec=spec.model_dump(mode="json"),
        backbone="toy",
        method="pairwise",
        reward="latent",
        seed=spec.seed,
        limit=None,
        trained=True,
        trained_reward=None,
        base="f" * 32,
        started=now,
        finished=now,
        versions={},
        git=None,
        device="cpu",
        costs={"update": Cost(seconds=1)},
        reused=(),
        peak_memory_bytes=1,
        protocol=Protocol(
            source="toy",
            num_prompts=4,
            num_texts=4,
            prompts_sha256="0" * 64,
            images_per_prompt=1,
            num_steps=4,
            guidance_scale=1.0,
            seed=0,
            confidence=0.95,
            bootstrap_samples=100,
            evaluators={"ruler": "1"},
        ),
        metrics={"length": Paired(**paired, win_rate=1.0, num_prompts=4)},
        groups={"length": {}},
        check=None,
        training={"updates": STEPS},
        files=inventory(folder, ("scores.csv",)),
    )


def train_reward_only(spec, out):
    folder = out / "cache" / f"reward-{spec.reward.scale}-{spec.seed}"
    with run_lock(folder):
        if (folder / "settings.json").exists():
            return {"reward": "latent", "measured": {}}
        note(f"train {folder.name}")
        if spec.reward.scale == 13:
            raise UserError("scale 13 is bad luck")
        (folder / "settings.json").write_text("{}")
    return {"reward": "latent", "measured": {}}


def install():
    def table(kind):
        names = fake_plugins.NAMES[kind].items()
        return {name: EntryPoint(name, f"fake_plugins:{cls.__name__}", kind) for name, cls in names}

    registry.table = table
    slots.DEFAULTS.update(backbone="toy", method="pairwise", reward="latent", evaluators="ruler")
    draft.RECIPES = Path(os.environ["TOY_RECIPES"])
    fake_plugins.Latent.train = train_reward_only
    runs = types.ModuleType("lpobench.run")
    runs.execute, runs.train_reward_only = execute, train_reward_only
    sys.modules["lpobench.run"] = runs
    drive.PROGRAM = (sys.executable, __file__)


if __name__ == "__main__":
    die_with_parent()
    install()
    sys.exit(main())
