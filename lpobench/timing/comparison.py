"""Ours against the released way: an optimiser step and a round of LPO, taken in turns in one process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from lpobench.launch import memory
from lpobench.learning import StepPairs
from lpobench.records.bench import Measurement, Ratio, Timing
from lpobench.sampling import Policy, stochastic_steps
from lpobench.spec import RunSpec
from lpobench.timing.phases import flops_of
from lpobench.timing.released import ReleasedWay, check, loss, reference_of
from lpobench.timing.stopwatch import Action, Effort, Rounds, in_turns, ratio
from lpobench.timing.workload import Workload, workload

TRAINING, ROLLOUT, ITERATION = "training step", "rollout", "whole iteration"
RELEASED, OURS = "released", "ours"
KEPT = (0.2, 0.35, 0.5, 0.75, 1.0)
"""Shares of a round's pairs that are sure, for which a whole iteration is told: what LPO kept is not published."""
MOVED = 1e-2
"""Std of what is added to the adapters before gradients are compared: at their start half of them are 0."""


def compared(spec: RunSpec, effort: Effort, *, allow_busy: bool = False) -> Measurement:
    """Both ways on the same parts, rows and prompts. Raises UserError."""
    check(spec)
    with workload(spec, allow_busy=allow_busy) as load:
        released = ReleasedWay(load)
        train = spec.train
        rows = load.rows(train.minibatch * train.gradient_accumulation)
        rounds: dict[str, dict[str, Rounds]] = {}
        flops: dict[str, int] = {}
        with reference_copy(load) as reference:
            difference = gradient_difference(load, reference, rows)
            pair = {RELEASED: released.update(reference, rows), OURS: load.update(rows)}
            rounds[TRAINING], work = _taken(TRAINING, pair, load, effort)
            flops |= work
        pair = {RELEASED: released.collect, OURS: load.collect}
        rounds[ROLLOUT], work = _taken(ROLLOUT, pair, load, effort)
        flops |= work
        per_round = len(stochastic_steps(load.policy, spec.method.timestep_range)) * train.prompts_per_round
        updates = {kept: kept * per_round / len(rows) for kept in KEPT}
        again = released.encoding_flops() / flops[f"{ROLLOUT}, {RELEASED}"]
        numbers = {
            "relative difference of gradients": difference,
            "pairs per round, if all are sure": per_round,
            "share of the released round that encodes texts again": again,
        }
        return Measurement(
            verb="compare",
            setup=load.setup(),
            environment=load.environment(),
            timings=_timings(rounds),
            flops=flops,
            unit_flops=load.unit_flops(),
            ratios=_ratios(rounds, updates),
            numbers=numbers,
        )


def _taken(
    what: str, pair: dict[str, Action], load: Workload, effort: Effort
) -> tuple[dict[str, Rounds], dict[str, int]]:
    found = in_turns(pair, load.device, effort)
    return found, {f"{what}, {way}": flops_of(action) for way, action in pair.items()}


def _timings(rounds: dict[str, dict[str, Rounds]]) -> dict[str, Timing]:
    return {f"{what}, {way}": each.timing for what, ways in rounds.items() for way, each in ways.items()}


def _ratios(rounds: dict[str, dict[str, Rounds]], updates: dict[float, float]) -> dict[str, Ratio]:
    found = {what: ratio([(ways[RELEASED], ways[OURS], 1.0)]) for what, ways in rounds.items()}
    for kept, number in updates.items():
        parts = [(rounds[what][RELEASED], rounds[what][OURS]) for what in (ROLLOUT, TRAINING)]
        weighted = [(*parts[0], 1.0), (*parts[1], number)]
        found[f"{ITERATION}, {kept:.0%} of pairs sure"] = ratio(weighted)
    return found


@contextmanager
def reference_copy(load: Workload) -> Iterator[Policy]:
    """The released reference, whose memory is free again afterwards."""
    held = [reference_of(load.policy, load.spec)]
    try:
        yield held[0]
    finally:
        held.clear()
        memory.free()


def gradient_difference(load: Workload, reference: Policy, rows: StepPairs) -> float:
    """Norm of the difference of the two ways' gradients over the norm of one, with adapters off their start."""
    adapters = load.policy.adapters
    start = [parameter.detach().clone() for parameter in adapters]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in adapters:
            parameter += MOVED * torch.randn(parameter.shape, generator=generator).to(parameter)
    method = load.spec.method
    part = rows.take(torch.arange(min(len(rows), load.spec.train.minibatch)))
    with load.loop.accelerator.autocast():
        losses = loss(method, load.policy, reference, part)[0], method.loss(load.loop.ctx, part)[0]
    grads = [torch.autograd.grad(value, adapters) for value in losses]
    with torch.no_grad():
        for parameter, value in zip(adapters, start, strict=True):
            parameter.copy_(value)
    return relative_difference(*grads)


def relative_difference(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    """Norm of a - b over the norm of b, all tensors together."""
    apart = sum(float((x - y).double().square().sum()) for x, y in zip(a, b, strict=True))
    size = sum(float(y.double().square().sum()) for y in b)
    return (apart / size) ** 0.5
