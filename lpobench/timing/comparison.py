"""Ours against the released way: an optimiser step and a round of LPO, taken in turns in one process."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from lpobench.launch import memory
from lpobench.learning import StepPairs
from lpobench.prepare import device_of, dtype_of
from lpobench.records.bench import Measurement, Ratio, Timing
from lpobench.sampling import Noisy, Policy, stochastic_steps
from lpobench.slots import name_of
from lpobench.spec import RunSpec
from lpobench.timing.environment import Watch
from lpobench.timing.phases import flops_of
from lpobench.timing.released import ReleasedWay, check, loss, reference_of
from lpobench.timing.stopwatch import Action, Effort, Rounds, in_turns, ratio
from lpobench.timing.workload import LESS, Workload, workload

TRAINING, ROLLOUT, ITERATION = "training step", "rollout", "whole iteration"
RELEASED, OURS = "released", "ours"
KEPT = (0.2, 0.35, 0.5, 0.75, 1.0)
"""Shares of a round's pairs that are sure, for which a whole iteration is told: what LPO kept is not published."""
MOVED = 3e-4
"""Std of what is added to the adapters before gradients are compared: at their start half of them are 0."""


class Flat:
    """A reward that says nothing: rows to train on need none, since their scores are replaced."""

    latent_space: str | None = None
    differentiable = False

    def score(self, noisy: Noisy) -> Float[Tensor, " n"]:
        return torch.zeros(len(noisy.latents), device=noisy.latents.device)


def compared(spec: RunSpec, effort: Effort, *, allow_busy: bool = False) -> Measurement:
    """Both ways on the same parts, rows and prompts. Raises UserError.

    The reward is loaded when the released reference is gone: the two are never in memory together.
    """
    check(spec)
    device, train = device_of(spec), spec.train
    watch = Watch(device, allow_busy=allow_busy)
    rounds: dict[str, dict[str, Rounds]] = {}
    with memory.explained(f"timing {name_of(spec.backbone)}", LESS):
        backbone = spec.backbone.load(device, dtype_of(spec))
        with workload(spec, parts=(backbone, Flat()), release=False) as load:
            rounds[TRAINING], flops, difference = _training(load, effort)
        memory.free()
        reward = spec.reward.load(backbone, device, dtype_of(spec))
        with workload(spec, parts=(backbone, reward), release=False) as load:
            released = ReleasedWay(load)
            pair = {RELEASED: released.collect, OURS: load.collect}
            rounds[ROLLOUT], work = _taken(ROLLOUT, pair, load, effort)
            flops |= work
            steps = stochastic_steps(load.policy, spec.method.timestep_range)
            again = released.encoding_flops() / flops[f"{ROLLOUT}, {RELEASED}"]
            setup, unit = load.setup(), load.unit_flops()
    per_round = len(steps) * train.prompts_per_round
    per_update = train.minibatch * train.gradient_accumulation
    return Measurement(
        verb="compare",
        setup=setup,
        environment=watch.environment(),
        timings=_timings(rounds),
        flops=flops,
        unit_flops=unit,
        ratios=_ratios(rounds, {kept: kept * per_round / per_update for kept in KEPT}),
        numbers={
            "relative difference of gradients": difference,
            "pairs per round, if all are sure": per_round,
            "share of the released round that encodes texts again": again,
        },
    )


def _training(load: Workload, effort: Effort) -> tuple[dict[str, Rounds], dict[str, int], float]:
    """Rounds and work of an update, and how far the gradients are apart. Nothing is held when this returns."""
    train = load.spec.train
    rows = load.rows(train.minibatch * train.gradient_accumulation)
    reference = reference_of(load.policy, load.spec)
    difference = gradient_difference(load, reference, rows)
    pair = {RELEASED: ReleasedWay(load).update(reference, rows), OURS: load.update(rows)}
    return *_taken(TRAINING, pair, load, effort), difference


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


def gradient_difference(load: Workload, reference: Policy, rows: StepPairs) -> float:
    """Norm of the difference of the two ways' gradients over the norm of one, with adapters off their start."""
    trained = load.policy.trained
    start = [parameter.detach().clone() for parameter in trained]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in trained:
            parameter += MOVED * torch.randn(parameter.shape, generator=generator).to(parameter)
    method = load.spec.method
    part = rows.take(torch.arange(min(len(rows), load.spec.train.minibatch)))
    with load.loop.accelerator.autocast():
        losses = loss(method, load.policy, reference, part)[0], method.loss(load.loop.ctx, part)[0]
    grads = [torch.autograd.grad(value, trained) for value in losses]
    with torch.no_grad():
        for parameter, value in zip(trained, start, strict=True):
            parameter.copy_(value)
    return relative_difference(*grads)


def relative_difference(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    """Norm of a - b over the norm of b, all tensors together; over 1 where b is 0."""
    apart = sum(float((x - y).double().square().sum()) for x, y in zip(a, b, strict=True))
    size = sum(float(y.double().square().sum()) for y in b)
    return (apart / (size or 1.0)) ** 0.5
