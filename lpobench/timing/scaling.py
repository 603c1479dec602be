"""How the cost of a round of sampling grows with candidates, prompts, steps and resolution.

The exponent of an axis is the slope of log time over log value, and so for the work: time that grows faster than the
work is an inefficiency of ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import ValidationError

from lpobench.plugin import UserError
from lpobench.prepare import device_of
from lpobench.problems import SettingsError, explain
from lpobench.records.bench import Measurement, Timing
from lpobench.slots import name_of
from lpobench.spec import RunSpec
from lpobench.timing.environment import Watch
from lpobench.timing.phases import flops_of
from lpobench.timing.stopwatch import Effort, measure
from lpobench.timing.workload import load_parts, noise, workload

AXES = {
    "candidates": "method.num_candidates",
    "prompts": "train.prompts_per_round",
    "steps": "sampling.num_steps",
    "resolution": "backbone.resolution",
}
USUAL = {"candidates": (2, 4, 8, 16), "prompts": (1, 2, 4, 8, 16), "steps": (5, 10, 20, 50)}
SHARES_OF_RESOLUTION = (0.5, 1.0, 1.5)
TOLERANCE = 0.1
"""By which the exponent of time may exceed that of the work."""


def growth(
    spec: RunSpec, values: Mapping[str, Sequence[int]], effort: Effort, *, allow_busy: bool = False
) -> Measurement:
    """Rounds at each value of each axis, the others as the run has them; no values: the usual. Raises UserError."""
    watch = Watch(device_of(spec), allow_busy=allow_busy)
    backbone, reward = load_parts(spec)
    if not values:
        side = backbone.decode(noise(1, backbone)).shape[-1]
        sides = tuple(round(side * share / 64) * 64 or 64 for share in SHARES_OF_RESOLUTION)
        values = {**USUAL, "resolution": tuple(dict.fromkeys(sides))}
    timings: dict[str, Timing] = {}
    flops: dict[str, int] = {}
    numbers: dict[str, float] = {}
    unit = 0
    for axis, at in values.items():
        for value in at:
            chosen, name = changed(spec, axis, value), f"{axis} {value}"
            parts = load_parts(chosen) if axis == "resolution" else (backbone, reward)
            with workload(chosen, parts=parts, release=False) as load:
                timings[name] = measure(load.collect, load.device, effort)
                flops[name] = flops_of(load.collect)
                unit = unit or load.unit_flops()
        numbers[f"{axis}: exponent of time"] = exponent(at, [timings[f"{axis} {v}"].median for v in at])
        numbers[f"{axis}: exponent of work"] = exponent(at, [flops[f"{axis} {v}"] for v in at])
    return Measurement(
        verb="scaling",
        setup={"spec": spec.model_dump(mode="json"), "values": {k: list(v) for k, v in values.items()}},
        environment=watch.environment(),
        timings=timings,
        flops=flops,
        unit_flops=unit,
        numbers=numbers,
    )


def changed(spec: RunSpec, axis: str, value: int) -> RunSpec:
    """The run at one value of an axis. Raises UserError where it has no such setting or value."""
    section, field = AXES[axis].split(".")
    settings = getattr(spec, section)
    if field not in type(settings).model_fields:
        raise UserError(f"--{axis}: {name_of(settings)} has no setting {field}")
    try:
        settings = type(settings).model_validate({**settings.model_dump(), field: value})
    except ValidationError as error:
        raise SettingsError(explain(error, type(settings), f"--{axis}")) from error
    return spec.model_copy(update={section: settings})


def exponent(values: Sequence[float], costs: Sequence[float]) -> float:
    """Slope of log cost over log value, by least squares; 0 for a single value."""
    if len(values) < 2:
        return 0.0
    return float(np.polyfit(np.log(values), np.log(costs), 1)[0])
