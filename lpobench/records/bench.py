"""What `lpobench bench` found, as one JSON document: timings, FLOPs, memory, and the machine they were taken on."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError

from lpobench.plugin import MissingAsset, Settings, UserError
from lpobench.records.record import Git

SCHEMA_VERSION = 1


class Timing(Settings):
    """Seconds of one action, waited for, over `n` rounds after a warm-up."""

    median: float
    low: float
    """25 % quantile."""
    high: float
    """75 % quantile."""
    n: int
    peak_memory_bytes: int
    """While it ran: what torch allocated on a GPU; on a CPU resident memory, of this action where the system can
    tell, else of the process so far."""
    warmup: int = 0
    """Rounds before the first that counts."""
    stable: bool = True
    """Whether the warm-up ended because rounds no longer got faster, and not because its time was up."""
    device_median: float | None = None
    """The same between two events on a GPU's own clock; None elsewhere."""


class Phase(Settings):
    """A part of an action, less the parts inside it."""

    seconds: float
    """Median over rounds, on a GPU by its own events."""
    flops: int = 0


class Ratio(Settings):
    """Of two medians, taken in turns in one process: how many times faster the second is than the first."""

    value: float
    low: float
    """95 % interval, by bootstrap over rounds."""
    high: float
    n: int
    """Rounds of each."""


class Environment(Settings):
    """Where it was measured."""

    device: str
    processor: str
    cores: int
    threads: int
    system: str
    versions: dict[str, str]
    git: Git | None
    gpu: dict[str, str] = Field(default_factory=dict)
    """Driver, clocks in MHz, power limit in W, temperature; as nvidia-smi says before anything was loaded."""
    tf32: tuple[str, ...] = ()
    """What of float32 arithmetic may round to TF32."""
    others: float | None = None
    """Share of all cores that other processes used while this measured; None: not known."""
    busy: bool = False
    """Other programs used the device or more than a tenth of the cores: figures are upper bounds."""


class Measurement(Settings):
    """One call of `lpobench bench VERB`."""

    schema_version: int = SCHEMA_VERSION
    verb: Literal["backbone", "reward", "rollout", "step", "compare", "scaling"]
    setup: dict[str, Any]
    """What was measured. Figures of two measurements are comparable where this is equal."""
    environment: Environment
    timings: dict[str, Timing] = Field(default_factory=dict)
    phases: dict[str, dict[str, Phase]] = Field(default_factory=dict)
    """Timing -> its parts."""
    flops: dict[str, int] = Field(default_factory=dict)
    """Timing -> floating point operations, two for a multiplication and an addition."""
    unit_flops: int = 0
    """Of one denoiser forward pass on one latent, unguided: what "denoiser forwards" count in."""
    parameters: dict[str, int] = Field(default_factory=dict)
    ratios: dict[str, Ratio] = Field(default_factory=dict)
    numbers: dict[str, float] = Field(default_factory=dict)
    """What is neither time nor work."""
    words: tuple[str, ...] = ()
    """The command line, from the verb on."""

    def forwards(self, name: str) -> float:
        """Work of a timing in denoiser forwards."""
        return self.flops[name] / self.unit_flops if self.unit_flops else math.nan

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises UserError, MissingAsset."""
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            version = document["schema_version"]
            if version <= SCHEMA_VERSION:
                return cls.model_validate(document)
        except FileNotFoundError:
            raise MissingAsset(f"no measurement at {path}") from None
        except (ValidationError, ValueError, TypeError, KeyError):
            raise UserError(
                f"{path} is not a measurement: should be what `lpobench bench VERB --json` printed"
            ) from None
        raise UserError(f"{path} has schema version {version}, this lpobench reads up to {SCHEMA_VERSION}")


def read_timings(path: Path) -> dict[str, Timing]:
    """Timings by name of a measurement, or of what `pytest tests/benchmarks --benchmark-json FILE` wrote.

    Raises UserError, MissingAsset.
    """
    if is_of_pytest(path):
        benchmarks = json.loads(path.read_text(encoding="utf-8"))["benchmarks"]
        return {each["fullname"]: _of_pytest(each) for each in benchmarks}
    return Measurement.read(path).timings


def is_of_pytest(path: Path) -> bool:
    """Whether it is pytest-benchmark's JSON. Raises UserError, MissingAsset."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MissingAsset(f"no measurement at {path}") from None
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from None
    return isinstance(document, dict) and "benchmarks" in document


def _of_pytest(benchmark: dict[str, Any]) -> Timing:
    stats, extra = benchmark["stats"], benchmark.get("extra_info", {})
    return Timing(
        median=stats["median"],
        low=stats["q1"],
        high=stats["q3"],
        n=stats["rounds"],
        peak_memory_bytes=extra.get("peak_memory_bytes", 0),
        warmup=extra.get("warmup", 0),
    )


class EstimatedPhase(Settings):
    """What a phase of a run should cost."""

    seconds: float = 0.0
    forwards: float = 0.0
    """Work in denoiser forwards: passes on one latent, unguided."""
    times: int = 1
    """Rounds, updates, images."""


class Estimate(Settings):
    """What a run should cost on this machine."""

    phases: dict[str, EstimatedPhase]
    """load, collect, update, generate, evaluate"""
    forward_seconds: float
    """Of one denoiser forward by itself."""
    unit_flops: int
    environment: Environment
    notes: tuple[str, ...] = ()
    parameters: int = 0
    """Numbers that are trained."""

    @property
    def hours(self) -> float:
        return sum(phase.seconds for phase in self.phases.values()) / 3600

    @property
    def forwards(self) -> float:
        return sum(phase.forwards for phase in self.phases.values())
