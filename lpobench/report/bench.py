"""Tables of what `lpobench bench` measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from lpobench.records.bench import Environment, Estimate, Measurement, Timing
from lpobench.records.published import numbers_of
from lpobench.report.tables import Section

REWARD_STAGES = ("denoising step", "x0 prediction", "VAE decode", "reward")
BATCHED = "in one batch"
PUBLISHED = ("denoise", "x0_prediction", "vae_decode", "reward")
"""The same stages in the paper's table."""
CHANGED = 0.05
"""Medians this far apart whose quartiles do not overlap are called different."""


def header(found: Measurement) -> list[str]:
    """What was measured, and where."""
    setup, where = found.setup, found.environment
    backbone = setup.get("backbone") or setup["spec"]["backbone"]
    weights = backbone.get("weights")
    precision = setup.get("precision") or setup["spec"]["train"]["precision"]
    shape = " x ".join(map(str, setup["latent_shape"])) if "latent_shape" in setup else ""
    lines = [
        f"bench {found.verb}: {backbone['name']}{f' with {weights} weights' if weights else ''}, {precision}"
        + (f", latents {shape}" if shape else ""),
        *_settings(found),
        *environment(where),
    ]
    return lines


def environment(where: Environment) -> list[str]:
    """The machine, and what is wrong with it as a place to measure."""
    versions = ", ".join(
        f"{name} {where.versions[name]}" for name in ("torch", "diffusers") if name in where.versions
    )
    gpu = "".join(f", {name} {value}" for name, value in where.gpu.items())
    tf32 = f"; fp32 {' and '.join(where.tf32)} in TF32" if where.tf32 else ""
    lines = [f"on {where.device} ({where.processor}, {where.cores} cores){gpu}; {versions}{tf32}"]
    if where.device.startswith("cpu"):
        lines.append("timed on a CPU: indicative only")
    if where.busy:
        share = "" if where.others is None else f" ({where.others:.0%} of all cores)"
        lines.append(f"BUSY: other programs used this machine meanwhile{share}; times are upper bounds")
    return lines


def _settings(found: Measurement) -> list[str]:
    setup = found.setup
    if found.verb == "reward":
        return [
            f"{setup['candidates']} candidates of each of {setup['prompts']} prompt(s), guidance "
            f"{setup['guidance_scale']:g}; prompts encoded before"
        ]
    if found.verb == "backbone":
        checkpointing = ", gradient checkpointing" if setup["gradient_checkpointing"] else ""
        return [f"training step at guidance {setup['guidance_scale']:g}{checkpointing}"]
    if found.verb == "scaling":
        return ["one round of sampling; one value is changed at a time"]
    sampling = setup["sampling"]
    trained = f"LoRA rank {setup['lora_rank']}" if "lora_rank" in setup else f"{setup['trained']} trained"
    return [
        f"{setup['method']['name']}, reward {setup['reward']}, {sampling['num_steps']} steps, guidance "
        f"{sampling['guidance_scale']:g}, {trained}; {setup['prompts_per_round']} prompts a "
        f"round, {setup['rows_per_update']} rows an update, at most {setup['minibatch']} at a time"
    ]


def sections(found: Measurement) -> list[Section]:
    """The tables of a measurement."""
    if found.verb == "backbone":
        return backbone_sections(found)
    if found.verb == "reward":
        return reward_sections(found)
    if found.verb == "scaling":
        return scaling_sections(found)
    made = [_timings(found), *(_phases(found, name) for name in found.phases)]
    if found.ratios:
        rows = [
            [name, f"{ratio.value:.2f} x", f"{ratio.low:.2f} - {ratio.high:.2f}", str(ratio.n)]
            for name, ratio in found.ratios.items()
        ]
        made.append(Section(["released over ours", "ratio of medians", "95 % interval", "n"], rows))
    return [*made, *_numbers(found)]


def backbone_sections(found: Measurement) -> list[Section]:
    """Parameters, then time, memory and work."""
    batch = found.setup["batch"]
    latents = f"{batch} latent{'s' if batch > 1 else ''}"
    units = {"decode": ", 1 image", "denoiser call": f", {latents}, no guidance", "training step": ", 1 pair"}
    parameters = [[name, _millions(number)] for name, number in found.parameters.items()]
    stages = _timings(found, {name: name + unit for name, unit in units.items()})
    return [Section(["part", "parameters"], parameters), stages]


def _millions(number: int) -> str:
    return f"{number / 1e6:,.3f} M"


def _timings(found: Measurement, called: Mapping[str, str] = MappingProxyType({})) -> Section:
    """All timings; `called` has better words for some."""
    on_device = any(timing.device_median is not None for timing in found.timings.values())
    rows = []
    for name, timing in found.timings.items():
        device = [f"{timing.device_median:.4g} s" if timing.device_median else ""] if on_device else []
        work = [f"{found.forwards(name):.4g}" if name in found.flops else ""]
        rows.append([called.get(name, name), *times(timing), *device, *work])
    headers = ["stage", "median", "quartiles", "n", "peak memory", *(["device"] if on_device else [])]
    return Section([*headers, "denoiser forwards"], rows, _forward(found))


def times(timing: Timing) -> list[str]:
    """Median, quartiles, rounds, peak memory."""
    median, low, high = (f"{value:.4g}" for value in (timing.median, timing.low, timing.high))
    spread = f"{low} - {high}" if timing.n > 1 else ""
    unstable = "" if timing.stable else " (still warming up)"
    return [f"{median} s", spread, f"{timing.n}{unstable}", f"{timing.peak_memory_bytes / 2**30:.2f} GiB"]


def _forward(found: Measurement) -> str:
    return f"one denoiser forward, a latent unguided: {found.unit_flops / 1e9:,.4g} GFLOP"


def _phases(found: Measurement, name: str) -> Section:
    parts = found.phases[name]
    whole = sum(part.seconds for part in parts.values())
    rows = [
        [
            part,
            f"{spent.seconds:.4g} s",
            f"{spent.seconds / whole:.1%}" if whole else "",
            f"{spent.flops / found.unit_flops:.4g}",
        ]
        for part, spent in parts.items()
    ]
    return Section([f"part of one {name}", "median", "share", "denoiser forwards"], rows)


def _numbers(found: Measurement) -> list[Section]:
    rows = [[name, f"{value:.4g}"] for name, value in found.numbers.items()]
    rows += [[f"parameters, {name}", _millions(num)] for name, num in found.parameters.items()]
    return [Section(["", "value"], rows)] if rows else []


def reward_sections(found: Measurement) -> list[Section]:
    """LPO's timing table, ours and published; then work, memory and parameters."""
    k = found.setup["candidates"]
    labels = list(found.setup["rewards"])
    rows = []
    for label in labels:
        stages = {stage: found.timings.get(f"{label}: {stage}") for stage in (*REWARD_STAGES, BATCHED)}
        medians = {stage: timing and timing.median for stage, timing in stages.items()}
        rows.append(reward_row(label, medians, k, medians[BATCHED]))
    headers = ["reward", *REWARD_STAGES, f"total, k = {k}", f"{k} in one batch"]
    note = f"total: denoising step + {k} x the others, a candidate at a time, as published"
    made = [Section(headers, [*rows, *published_rows()], note), _reward_work(found, labels, k)]
    cheaper = [row for label in labels for row in _against(found, labels[0], label, k) if label != labels[0]]
    if cheaper:
        made.append(Section([f"times {labels[0]}", "time", "FLOPs"], cheaper))
    spread = [[name, *times(timing)] for name, timing in found.timings.items()]
    made.append(Section(["stage", "median", "quartiles", "n", "peak memory"], spread))
    return [*made, *_numbers(found)]


def reward_row(
    label: str, medians: dict[str, float | None], k: int, batched: float | None = None
) -> list[str]:
    """A reward's stages in seconds; empty where it has no such stage."""
    step, *others = (medians.get(stage) for stage in REWARD_STAGES)
    total = (step or 0.0) + k * sum(other or 0.0 for other in others)
    return [label, *(_seconds(value) for value in (step, *others, total, batched))]


def published_rows() -> list[list[str]]:
    """The paper's timing table, as printed; it has k = 4."""
    rows: dict[tuple[str, str, str], dict[str, str]] = {}
    for number in numbers_of("timing"):
        named = rows.setdefault((number.method, number.backbone, number.setting), {})
        named[number.metric] = number.value
    return [
        [
            f"published: {method}, {backbone}, {device}",
            *(_printed(found[f"{metric}_s"]) for metric in PUBLISHED),
            f"{found['total_k4_s']} s",
            "",
        ]
        for (method, backbone, device), found in rows.items()
    ]


def _printed(value: str) -> str:
    return "" if float(value) == 0 else f"{value} s"


def _seconds(value: float | None) -> str:
    return "" if not value else f"{value:.4g} s"


def _reward_work(found: Measurement, labels: Sequence[str], k: int) -> Section:
    rows = []
    for label in labels:
        names = {stage: f"{label}: {stage}" for stage in (*REWARD_STAGES, BATCHED)}
        cells = [f"{found.forwards(name):.4g}" if name in found.flops else "" for name in names.values()]
        peak = max(found.timings[name].peak_memory_bytes for name in names.values() if name in found.timings)
        parameters = f"{found.parameters[label] / 1e6:,.1f} M"
        rows.append([label, *cells, parameters, f"{peak / 2**30:.2f} GiB"])
    headers = ["denoiser forwards", *REWARD_STAGES, f"{k} in one batch", "parameters", "peak memory"]
    return Section(headers, rows, _forward(found))


def _against(found: Measurement, first: str, other: str, k: int) -> list[list[str]]:
    """How many times as much another reward costs as the first: a candidate's score, and the whole step."""

    def costs(label: str) -> tuple[list[float], list[float]]:
        stages = [f"{label}: {stage}" for stage in REWARD_STAGES]
        seconds = [found.timings[name].median if name in found.timings else 0.0 for name in stages]
        return seconds, [float(found.flops.get(name, 0)) for name in stages]

    ways = {
        "scoring a candidate": lambda step, *others: sum(others),
        f"whole step, k = {k}, a candidate at a time": lambda step, *others: step + k * sum(others),
    }
    rows = []
    for what, total in ways.items():
        pairs = zip(costs(other), costs(first), strict=True)
        rows.append([f"{other}: {what}", *(_times(total(*theirs), total(*ours)) for theirs, ours in pairs)])
    names = [f"{label}: {BATCHED}" for label in (other, first)]
    seconds, flops = ([table[name] for name in names] for table in (found.timings, found.flops))
    batched = [_times(seconds[0].median, seconds[1].median), _times(*map(float, flops))]
    return [*rows, [f"{other}: whole step, {k} in one batch", *batched]]


def _times(value: float, unit: float) -> str:
    return f"{value / unit:.2f} x" if unit else "n/a"


def scaling_sections(found: Measurement) -> list[Section]:
    """A table for each axis, and the exponents."""
    made, verdicts = [], []
    for axis, values in found.setup["values"].items():
        rows = []
        for value in values:
            timing = found.timings[f"{axis} {value}"]
            rows.append([str(value), *times(timing), f"{found.forwards(f'{axis} {value}'):.4g}"])
        headers = [axis, "median", "quartiles", "n", "peak memory", "denoiser forwards"]
        made.append(Section(headers, rows))
        if len(values) > 1:
            time, work = (found.numbers[f"{axis}: exponent of {what}"] for what in ("time", "work"))
            faster = "no" if time <= work + 0.1 else f"yes, by {time - work:.2f}"
            verdicts.append([axis, f"{time:.2f}", f"{work:.2f}", faster])
    headers = ["exponent", "of time", "of work", "time grows faster than the work"]
    return [*made, Section(headers, verdicts, _forward(found))]


def changes(old: dict[str, Timing], new: dict[str, Timing]) -> Section:
    """Timings of both: how their medians changed, and which changes are more than noise."""
    rows = []
    for name, now in new.items():
        if name not in old:
            rows.append([name, "", f"{now.median:.4g} s", "", "new"])
            continue
        before = old[name]
        change = now.median / before.median
        apart = now.low > before.high or now.high < before.low
        differs = apart and abs(change - 1) > CHANGED
        verdict = ("slower" if change > 1 else "faster") if differs else "same"
        rows.append([name, f"{before.median:.4g} s", f"{now.median:.4g} s", f"{change:.3f}", verdict])
    rows += [
        [name, f"{timing.median:.4g} s", "", "", "gone"] for name, timing in old.items() if name not in new
    ]
    note = "slower, faster: medians more than 5 % apart whose quartiles do not overlap"
    return Section(["timing", "old", "new", "new / old", ""], rows, note)


def differences(old: Measurement, new: Measurement) -> list[str]:
    """Why two measurements may not be comparable."""
    lines = []
    if old.setup != new.setup:
        keys = sorted(k for k in {*old.setup, *new.setup} if old.setup.get(k) != new.setup.get(k))
        lines.append(f"NOT COMPARABLE: another setup was measured ({', '.join(keys)})")
    for name in ("device", "processor", "threads", "tf32"):
        before, now = getattr(old.environment, name), getattr(new.environment, name)
        if before != now:
            lines.append(f"another {name}: {before}, now {now}")
    packages = {*old.environment.versions, *new.environment.versions}
    moved = [
        p for p in sorted(packages) if old.environment.versions.get(p) != new.environment.versions.get(p)
    ]
    if moved:
        lines.append(f"other versions: {', '.join(moved)}")
    if old.environment.busy or new.environment.busy:
        lines.append("a machine was busy: times are upper bounds")
    return lines


def estimate_lines(cost: Estimate) -> list[str]:
    """What a run should cost: in all, then by phase."""
    where = cost.environment
    busy = f"; BUSY: others used {where.others:.0%} of all cores" if where.busy and where.others else ""
    lines = [
        f"work: {cost.forwards:,.0f} denoiser forwards ({cost.unit_flops / 1e9:,.4g} GFLOP and "
        f"{cost.forward_seconds:.4g} s each, alone)",
        f"time: {cost.hours:.3g} hours by one process on {where.device}{busy}",
    ]
    if cost.parameters:
        lines.append(f"trained: {_millions(cost.parameters)} parameters")
    units = {"collect": "rounds", "update": "updates", "generate": "images", "evaluate": "images"}
    for name, phase in cost.phases.items():
        many = f", {phase.times:,} {units[name]}" if name in units else ""
        work = f", {phase.forwards:,.0f} forwards" if phase.forwards else ""
        lines.append(f"  {name}: {phase.seconds:,.1f} s{many}{work}")
    return [*lines, *cost.notes]
