"""One run from its specification to its record: the program's table of contents."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from lpobench.checkpoints import label_of, locate_checkpoint
from lpobench.conclude import DENOISER, GRID, LORA, METRICS, Outcome, conclude
from lpobench.data.cache import content
from lpobench.launch import memory, ranks
from lpobench.learning.checkpoint import storage_errors
from lpobench.learning.train import TrainResult, train
from lpobench.lock import run_lock
from lpobench.prepare import (
    Parts,
    device_of,
    dtype_of,
    fingerprint_of,
    prepare,
    prompts_of,
    reward_identity,
    trained_reward,
)
from lpobench.records import record
from lpobench.records.pictures import CACHE, EVALUATION
from lpobench.records.record import Checkpoint, Cost, RunRecord
from lpobench.records.scores import FILE as SCORES
from lpobench.scoring.generate import Sampler
from lpobench.scoring.variants import Scorer
from lpobench.signals import StopFlag
from lpobench.slots import name_of
from lpobench.spec import RunSpec
from lpobench.types import Context

MADE = (record.FILE, SCORES, GRID, METRICS, LORA, DENOISER, EVALUATION, "checkpoints")
"""What a run puts into its folder."""


def execute(
    spec: RunSpec, out: Path, *, resume: bool = True, limit: int | None = None, train_reward: bool = False
) -> RunRecord:
    """Train, generate, score and record in `out/<id>`. A run that is complete already is returned as it is.

    An unfinished run goes on from its newest checkpoint; with `resume` False it starts over (what runs share
    in `out/cache` is found by content and stays). `limit` cuts updates and prompts, `train_reward` trains the
    reward model first, and both show in the folder's name. Raises UserError, Preempted after a stop signal,
    RuntimeError when a stock pipeline does not reproduce the exported weights.

    Where torchrun started several processes, they share the work; the main one writes, all get the record.
    """
    ranks.start(device_of(spec))
    folder, started = out / record.run_name(spec.id, limit, train_reward), datetime.now(UTC)
    if resume and (finished := ranks.from_main(lambda: find_current(folder, spec))):
        ranks.say(f"{folder} is complete already; --no-resume makes it anew")
        return finished
    parts = prepare(cut(spec, limit), out / CACHE, train_reward=train_reward)
    with ranks.main_holds(lambda: run_lock(folder)), StopFlag() as stop:
        if not resume:
            ranks.from_main(lambda: clear(folder))
        training = learn(parts, folder, stop)
        with storage_errors(f"the results could not be written to {folder} or {out / CACHE}"):
            scorer = Scorer(
                parts.policy, parts.eval_prompts, parts.spec.eval, parts.judges, parts.costs, stop
            )
            base = scorer.score_base(out / CACHE, base_key(parts))
            checkpoint = load_checkpoint(parts)
            made = training or spec.method.samples
            variant = checkpoint.name if checkpoint else name_of(spec.method) if made else None
            method = base
            if variant:
                about = variant_key(parts, folder, checkpoint)
                method = scorer.score(variant, folder / EVALUATION, about, sampler=sampler_of(parts))
            return conclude(parts, folder, Outcome(started, limit, training, base, method, checkpoint))


def train_reward_only(spec: RunSpec, out: Path) -> dict[str, Any]:
    """Train the run's reward model and nothing else; a run with `train_reward` will find it."""
    ranks.start(device_of(spec))
    backbone = spec.backbone.load(device_of(spec), dtype_of(spec))
    _, prompts = prompts_of(spec)
    base = fingerprint_of(spec, backbone, prompts)
    settings, folder, reused = trained_reward(spec, backbone, base, out / CACHE)
    summary = {"reward": name_of(settings), "folder": str(folder), "reused": reused, "seed": spec.seed}
    return {**summary, "measured": settings.measured()}


def learn(parts: Parts, folder: Path, stop: StopFlag) -> TrainResult | None:
    """Train what is to be trained and export it; None when the method trains nothing."""
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
        pairs=parts.pairs,
        stop=stop,
        fingerprint=f"{folder.name} of base {parts.base[:8]}",
    )
    for phase, seconds in result.seconds.items():
        work = result.work.get(phase, {}) if ranks.is_main() else {}  # of all processes: booked by one
        parts.costs.add(phase, Cost(seconds=seconds, **work))
    with parts.costs.phase("export"):
        memory.free()  # the optimiser's: a second denoiser is about to be loaded
        backbone = policy.backbone
        export = backbone.export_denoiser if policy.whole else backbone.export_lora
        with policy.assembled():
            ranks.from_main(lambda: export(weights_folder(spec, folder)))
    return result


def weights_folder(spec: RunSpec, folder: Path) -> Path:
    """Where a run's trained weights are."""
    return folder / (DENOISER if spec.parameters == "all" else LORA)


def sampler_of(parts: Parts) -> Sampler | None:
    """The method's own way of making images, if it has one."""
    method, reward = parts.spec.method, parts.reward
    if not method.samples:
        return None
    return lambda policy, latents, prompts, timesteps, generators: method.sample(
        policy, reward, latents, prompts, timesteps, generators
    )


def load_checkpoint(parts: Parts) -> Checkpoint | None:
    """Put the run's checkpoint, if it has one, onto the backbone; the base is gone from then on."""
    if parts.checkpoint is None:
        return None
    with parts.costs.phase("load"):
        loaded = parts.policy.backbone.load_checkpoint(parts.checkpoint)
        ranks.say(f"checkpoint {parts.spec.checkpoint}: {loaded}")
        return Checkpoint(
            name=label_of(parts.spec.checkpoint), loaded=loaded, sha256=content(parts.checkpoint)
        )


def find_current(folder: Path, spec: RunSpec) -> RunRecord | None:
    """The finished run, of the checkpoint as it lies here now; another under the same path is not it."""
    finished = record.find_complete(folder)
    if finished is None or finished.checkpoint is None:
        return finished
    current = finished.checkpoint.sha256 == content(locate_checkpoint(spec.checkpoint))
    return finished if current else None


def base_key(parts: Parts) -> dict[str, Any]:
    """What decides the base's images besides prompts and evaluation settings."""
    return {"backbone": name_of(parts.spec.backbone), "base": parts.base}


def variant_key(parts: Parts, folder: Path, checkpoint: Checkpoint | None) -> dict[str, Any]:
    """What decides the method's images: weights, and of a method that samples, its settings and its reward."""
    method, trained = parts.spec.method, weights_folder(parts.spec, folder)
    key = {**base_key(parts), "method": name_of(method)}
    if checkpoint is not None:
        return {**key, "weights": checkpoint.sha256}
    if method.trains:
        key["weights"] = ranks.from_main(lambda: content(trained))
    if method.samples:
        reward = parts.spec.reward
        key["settings"] = method.model_dump(mode="json")
        key["reward"] = ranks.from_main(lambda: reward_identity(reward)) if reward else None
    return key


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
