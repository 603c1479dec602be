"""One run from its specification to its record: the program's table of contents."""

from __future__ import annotations

import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from lpobench.conclude import GRID, LORA, METRICS, Outcome, conclude
from lpobench.learning.checkpoint import storage_errors
from lpobench.learning.train import TrainResult, train
from lpobench.lock import run_lock
from lpobench.prepare import Parts, device_of, dtype_of, prepare, prompts_of, trained_reward
from lpobench.records import record
from lpobench.records.record import Cost, RunRecord
from lpobench.records.scores import FILE as SCORES
from lpobench.scoring.generate import fingerprint
from lpobench.scoring.variants import Scorer
from lpobench.signals import StopFlag
from lpobench.slots import name_of
from lpobench.spec import RunSpec
from lpobench.types import Context

CACHE = "cache"
"""Folder beside the runs for what they share."""
MADE = (record.FILE, SCORES, GRID, METRICS, LORA, "checkpoints")
"""What a run puts into its folder."""


def execute(
    spec: RunSpec, out: Path, *, resume: bool = True, limit: int | None = None, train_reward: bool = False
) -> RunRecord:
    """Train, generate, score and record in `out/<id>`. A run that is complete already is returned as it is.

    An unfinished run goes on from its newest checkpoint; with `resume` False it starts over (what runs share
    in `out/cache` is found by content and stays). `limit` cuts updates and prompts, `train_reward` trains the
    reward model first, and both show in the folder's name. Raises UserError, Preempted after a stop signal,
    RuntimeError when a stock pipeline does not reproduce the exported LoRA.
    """
    folder, started = out / record.run_name(spec.id, limit, train_reward), datetime.now(UTC)
    if resume and (finished := record.find_complete(folder)):
        say(f"{folder} is complete already; --no-resume makes it anew")
        return finished
    parts = prepare(cut(spec, limit), out / CACHE, train_reward=train_reward)
    with run_lock(folder), StopFlag() as stop:
        if not resume:
            clear(folder)
        training = learn(parts, folder, stop)
        with storage_errors(f"the results could not be written to {folder} or {out / CACHE}"):
            scorer = Scorer(
                parts.policy, parts.eval_prompts, parts.spec.eval, parts.evaluators, parts.costs, stop
            )
            base, reused = scorer.score_base(out / CACHE, base_key(parts))
            method = scorer.score(name_of(spec.method)) if training else base
            return conclude(parts, folder, Outcome(started, limit, training, base, reused, method))


def train_reward_only(spec: RunSpec, out: Path) -> dict[str, Any]:
    """Train the run's reward model and nothing else; a run with `train_reward` will find it."""
    backbone = spec.backbone.load(device_of(spec), dtype_of(spec))
    _, prompts = prompts_of(spec)
    base = fingerprint(backbone, prompts[0].text, spec.eval.guidance_scale)
    settings, folder, reused = trained_reward(spec, backbone, base, out / CACHE)
    summary = {"reward": name_of(settings), "folder": str(folder), "reused": reused, "seed": spec.seed}
    return {**summary, "measured": settings.measured()}


def learn(parts: Parts, folder: Path, stop: StopFlag) -> TrainResult | None:
    """Train the adapters and export them; None when the method trains nothing."""
    spec, policy = parts.spec, parts.policy
    if not spec.method.trains:
        return None
    result = train(
        spec.method,
        Context(policy=policy, generator=torch.Generator(), reward=parts.reward),
        spec.train,
        folder,
        seed=spec.seed,
        prompts=[prompt.text for prompt in parts.train_prompts],
        stop=stop,
        fingerprint=f"{folder.name} of base {parts.base[:8]}",
    )
    for phase, seconds in result.seconds.items():
        calls, rows = result.denoiser_calls.get(phase, 0), result.denoiser_rows.get(phase, 0)
        parts.costs.add(phase, Cost(seconds=seconds, calls=calls, rows=rows))
    with parts.costs.phase("export"):
        policy.backbone.export_lora(folder / LORA)
    return result


def base_key(parts: Parts) -> dict[str, Any]:
    """What decides the base's scores besides prompts and evaluation settings."""
    evaluators = [
        {"name": name, "version": evaluator.version, "settings": settings.model_dump(mode="json")}
        for (name, evaluator), settings in zip(parts.evaluators.items(), parts.spec.evaluators, strict=True)
    ]
    return {"backbone": name_of(parts.spec.backbone), "base": parts.base, "evaluators": evaluators}


def cut(spec: RunSpec, limit: int | None) -> RunSpec:
    """The run with at most `limit` updates and evaluation prompts."""
    if limit is None:
        return spec
    train_settings = spec.train.model_copy(update={"num_updates": min(limit, spec.train.num_updates)})
    evaluation = spec.eval.model_copy(update={"num_prompts": min(limit, spec.eval.num_prompts)})
    return spec.model_copy(update={"train": train_settings, "eval": evaluation})


def clear(folder: Path) -> None:
    """Remove what an earlier run made here, and nothing else."""
    for path in (folder / name for name in MADE):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def say(line: str) -> None:
    print(line, file=sys.stderr)
