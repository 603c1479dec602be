"""What a round of sampling and an optimiser step of a run cost, part by part. See workload.py for what is timed."""

from __future__ import annotations

from lpobench.records.bench import Measurement, Phase, Timing
from lpobench.spec import RunSpec
from lpobench.timing.peaks import peak_flops
from lpobench.timing.phases import BOOKKEEPING, flops_of, split
from lpobench.timing.stopwatch import Action, Effort, measure
from lpobench.timing.workload import Workload, count, prompts, workload

ROLLOUT, STEP, ENCODE = "rollout", "optimiser step", "text encode"


def rollout_costs(spec: RunSpec, effort: Effort, *, allow_busy: bool = False) -> Measurement:
    """One round of rows: `train.prompts_per_round` prompts, encoded before. Raises UserError."""
    with workload(spec, allow_busy=allow_busy) as load:
        texts = prompts(spec.train.prompts_per_round)
        timings, flops = {}, {}
        if not spec.backbone.releases_text_encoders:
            name, encode = f"{ENCODE}, {len(texts)} prompts, once", lambda: load.backbone.encode_prompt(texts)
            timings[name], flops[name] = measure(encode, load.device, effort), flops_of(encode)
        timing = measure(load.collect, load.device, effort)
        parts = split(load.collect, load.watched, load.device)
        found = _measured("rollout", load, ROLLOUT, timing, parts)
        numbers = {
            "rows per round": float(load.loop.state.round_rows),
            "prompts per second": spec.train.prompts_per_round / timing.median,
            "share of bookkeeping": parts[BOOKKEEPING].seconds / sum(p.seconds for p in parts.values()),
        }
        more = {"timings": timings, "flops": flops, "numbers": numbers}
        return found.model_copy(update={name: getattr(found, name) | new for name, new in more.items()})


def step_costs(spec: RunSpec, effort: Effort, *, allow_busy: bool = False) -> Measurement:
    """One update: `train.minibatch` x `train.gradient_accumulation` rows. Raises UserError."""
    with workload(spec, allow_busy=allow_busy) as load:
        action = one_update(load)
        timing = measure(action, load.device, effort)
        return _measured("step", load, STEP, timing, split(action, load.watched, load.device))


def one_update(load: Workload) -> Action:
    """An optimiser step on as many rows as an update of the run has."""
    train = load.spec.train
    return load.update(load.rows(train.minibatch * train.gradient_accumulation))


def _measured(verb: str, load: Workload, name: str, timing: Timing, parts: dict[str, Phase]) -> Measurement:
    flops = sum(phase.flops for phase in parts.values())
    peak = peak_flops(load.device, load.spec.train.precision)
    seconds = timing.device_median or timing.median
    numbers = {"TFLOP/s": flops / seconds / 1e12}
    if peak is not None:
        numbers["model FLOPs utilisation"] = flops / seconds / peak
    return Measurement(
        verb=verb,
        setup=load.setup(),
        environment=load.environment(),
        timings={name: timing},
        phases={name: parts},
        flops={name: flops},
        unit_flops=load.unit_flops(),
        parameters={
            "denoiser": count(load.backbone.denoiser),
            "trained" if load.policy.whole else "adapter": sum(p.numel() for p in load.policy.trained),
        },
        numbers=numbers,
    )
