"""What a run will cost on this machine: denoiser forwards and hours, from a short calibration.

Calls are rehearsed and timed (calibration.py) and added up; a round that is affordable as a whole is timed as a whole,
and says what share of its rows a real reward keeps.
"""

from __future__ import annotations

import time
from functools import partial

import torch

from lpobench.data.prompts import load_prompts
from lpobench.learning.batches import rows_for_update
from lpobench.prepare import prompts_of
from lpobench.records.bench import Estimate, EstimatedPhase
from lpobench.scoring.generate import Painter, Sampler
from lpobench.spec import RunSpec
from lpobench.timing.calibration import CAP, Calibration, Calls
from lpobench.timing.phases import flops_of
from lpobench.timing.stopwatch import seconds_of
from lpobench.timing.workload import Workload, workload
from lpobench.types import Prompt, Rows

ROUNDS = 2
"""Real rounds, from which time and the rows that the reward keeps are taken."""
JUDGED = 8
"""Real images that evaluators are timed on."""


def estimate(spec: RunSpec, *, train_reward: bool = False) -> Estimate:
    """Load the run's parts, time them, and add up. Raises UserError where the run could not be made here."""
    began = time.perf_counter()
    with workload(spec, allow_busy=True, release=False) as load:
        loaded = time.perf_counter() - began
        calibration = Calibration(load)
        unit = load.unit_flops()
        phases = {"load": EstimatedPhase(seconds=loaded)}
        notes = ["training the reward is not in it"] if train_reward else []
        if spec.method.trains:
            made, said = _training(calibration, unit)
            phases |= made
            notes += said
        phases |= _images(calibration, unit)
        return Estimate(
            phases=phases,
            forward_seconds=calibration.of("predict", 1),
            unit_flops=unit,
            environment=load.environment(),
            notes=tuple(notes),
            parameters=sum(parameter.numel() for parameter in load.policy.trained),
        )


def _training(calibration: Calibration, unit: int) -> tuple[dict[str, EstimatedPhase], list[str]]:
    load, train = calibration.load, calibration.load.spec.train
    with calibration.rehearsing() as calls:
        load.collect()
    everything = load.loop.state.pending
    round_seconds, num_rows, notes = _round(calibration, calls)
    size = train.minibatch * train.gradient_accumulation
    per_round = _updates(num_rows, size)
    updates, rounds = train.num_updates, -(-train.num_updates // per_round)
    if train.epochs is not None:
        most = -(-train.epochs * _num_prompts(load) // train.prompts_per_round)
        rounds = min(rounds, most)
        updates = min(updates, rounds * per_round)
    rows = min(num_rows, size + size // 2) if per_round == 1 else size
    update_seconds, update_flops = _update(calibration, everything, rows)
    return {
        "collect": EstimatedPhase(
            seconds=rounds * round_seconds,
            forwards=rounds * calibration.flops(calls) / unit,
            times=rounds,
        ),
        "update": EstimatedPhase(
            seconds=updates * update_seconds, forwards=updates * update_flops / unit, times=updates
        ),
    }, notes


def _round(calibration: Calibration, calls: Calls) -> tuple[float, int, list[str]]:
    """Seconds and rows of one round: of real ones where they are affordable."""
    load = calibration.load
    expected, all_rows = calibration.seconds(calls), load.loop.state.round_rows
    if expected > 2 * CAP:
        said = f"every candidate pair counts as sure ({all_rows} rows a round): fewer make more rounds"
        return expected, all_rows, [said] if load.reward is not None else []
    if load.reward is not None:
        load.reward.replaces = False
    seconds, rows = [], []
    for _ in range(ROUNDS):
        load.loop.state.pending = None
        seconds.append(seconds_of(load.loop.collect, load.device))
        rows.append(load.loop.state.round_rows)
    if load.reward is not None:
        load.reward.replaces = True
    mean = max(1, round(sum(rows) / len(rows)))
    return sum(seconds) / len(seconds), mean, [f"{mean} of {all_rows} rows of a round are kept"]


def _updates(rows: int, size: int) -> int:
    """Updates that the loop makes of a round's rows."""
    number = 0
    while rows > 0:
        rows -= rows_for_update(rows, size)
        number += 1
    return max(1, number)


def _update(calibration: Calibration, rows: Rows, num: int) -> tuple[float, int]:
    """Seconds and FLOPs of an update on so many rows, from as many as are affordable."""
    load = calibration.load
    per_row = 8 * calibration.of(
        "predict", 1
    )  # guided reference and policy, and a backward pass of twice that
    size = min(num, len(rows))
    while size > 1 and size * per_row > CAP:
        size = (size + 1) // 2
    few, one = rows.take(torch.arange(size)), rows.take(torch.arange(1))
    seconds = calibration.timed(load.update(few)) * num / size
    return seconds, flops_of(load.update(one)) * num


def _num_prompts(load: Workload) -> int:
    """Training prompts of an epoch."""
    if "pairs" in load.spec.method.needs:
        from lpobench.data.pairs.preferred import Preferred

        return len(Preferred.open(load.spec.train.pairs, load.backbone))
    return len(load_prompts(load.spec.train.prompts, "train", None, load.spec.seed))


def _images(calibration: Calibration, unit: int) -> dict[str, EstimatedPhase]:
    """Both variants' images and their scores."""
    load, spec = calibration.load, calibration.load.spec
    _, evaluation = prompts_of(spec)
    total = len(evaluation) * spec.eval.images_per_prompt
    batch = min(total, spec.eval.batch_size)
    todo = [(prompt, 0) for prompt in (evaluation * -(-batch // len(evaluation)))[:batch]]
    base = Painter(load.policy, spec.eval, reference=True)
    variants = [base]
    if spec.method.trains or spec.method.samples or spec.checkpoint:
        sampler = _sampler(load) if spec.method.samples else None
        variants.append(Painter(load.policy, spec.eval, sampler=sampler))
    seconds = forwards = 0.0
    for painter in variants:
        with calibration.rehearsing() as calls:
            list(painter.paint(todo))
        seconds += calibration.seconds(calls) * total / batch
        forwards += calibration.flops(calls) * total / batch / unit
    made = total * len(variants)
    few = todo[:JUDGED] if seconds / made * JUDGED < 2 * CAP else []
    judged = made * _judging(calibration, base, few or todo[:1])
    return {
        "generate": EstimatedPhase(seconds=seconds, forwards=forwards, times=made),
        "evaluate": EstimatedPhase(seconds=judged, times=made),
    }


def _sampler(load: Workload) -> Sampler:
    method, reward = load.spec.method, load.reward
    return lambda policy, latents, texts, timesteps, generators: method.sample(
        policy, reward, latents, texts, timesteps, generators
    )


def _judging(calibration: Calibration, painter: Painter, todo: list[tuple[Prompt, int]]) -> float:
    """Seconds per image, of all evaluators; each is loaded, timed and freed. On real images where there are several."""
    load, found = calibration.load, 0.0
    images = calibration.image if len(todo) == 1 else torch.cat([b.images for b in painter.paint(todo)])
    asked = [prompt for prompt, _ in todo]
    for settings in load.spec.evaluators:
        evaluator = settings.load(load.device, torch.float32)
        found += calibration.timed(partial(evaluator.score, images, asked)) / len(asked)
    return found
