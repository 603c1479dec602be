"""Evaluators and their engines: ours, or the official package in a worker; and which of them can run here. No torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lpobench import registry
from lpobench.hashing import file_sha256
from lpobench.plugin import EvaluatorSettings, Metric, UserError
from lpobench.problems import hint
from lpobench.scoring import worker
from lpobench.slots import name_of

if TYPE_CHECKING:
    import torch

    from lpobench.types import Evaluator

Engine = Literal["native", "official"]
ENGINES: dict[str, tuple[Engine, ...]] = {
    "native": ("native",),
    "official": ("official",),
    "both": ("native", "official"),
}
ALL = "all"


@dataclass(frozen=True)
class Scorer:
    """An evaluator by one of its engines."""

    settings: EvaluatorSettings
    engine: Engine = "native"
    limits: worker.Limits = worker.USUAL
    """Of an official package."""

    @property
    def name(self) -> str:
        return name_of(self.settings)

    @property
    def label(self) -> str:
        """What its scores are kept and shown under."""
        return self.name if self.engine == "native" else f"{self.name}-official"

    @property
    def version(self) -> str:
        """Of the official code: its worker's script too, which says what packages it is."""
        if self.engine == "native":
            return self.settings.version
        script = worker.script_of(self.settings.official or "")
        return f"{self.settings.version}-{self.settings.official}-{file_sha256(script)[:8]}"

    @property
    def metrics(self) -> dict[str, Metric]:
        return self.settings.metrics

    def check(self) -> None:
        """Raises UserError and MissingAsset for what it would miss. Reads no weights."""
        for what, path in self.settings.assets().items():
            if not path.exists():
                raise UserError(f"{self.name}: no {what} at {path}")
        if self.engine == "official":
            if self.settings.official is None:
                raise UserError(f"evaluator {self.name} has no official package here; use --engine native")
            worker.command_of(self.settings.official)

    def facts(self) -> dict[str, Any]:
        """Its settings and engine, as JSON has them."""
        return {**self.settings.model_dump(mode="json"), "engine": self.engine}

    @contextmanager
    def live(self, device: torch.device) -> Iterator[Evaluator]:
        """The loaded scorer, which is given back at the end."""
        import torch

        from lpobench.launch import memory

        if self.engine == "official":
            from lpobench.scoring.isolated import isolated

            evaluator = isolated(self.name, self.settings, device, self.limits)
            try:
                yield evaluator
            finally:
                evaluator.close()
        else:
            try:
                yield self.settings.load(device, torch.float32)
            finally:
                if self.settings.assets():  # it had weights
                    memory.free()

    def size(self) -> int:
        """Bytes of what it reads from disk: about what it takes in memory."""
        return sum(_bytes(path) for path in self.settings.assets().values())


@dataclass(frozen=True)
class Readiness:
    """Whether an evaluator can run here."""

    name: str
    about: str
    ready: bool
    missing: str
    """What it lacks and what supplies it, or "": the error it would end with."""
    command: str
    """The command that supplies it, or ""."""
    licence: str
    metrics: list[str]
    suite: str | None
    official: str | None


def readiness(name: str) -> Readiness:
    """By its default settings."""
    try:
        settings = registry.get("evaluators", name)()
        about = registry.summary("evaluators", name)
        problem = problem_of(Scorer(settings))
    except UserError as error:
        return Readiness(name, "", False, str(error), _command(str(error)), "", [], None, None)
    facts = (settings.licence, list(settings.metrics), settings.suite, settings.official)
    return Readiness(name, about, not problem, problem, _command(problem), *facts)


def problem_of(scorer: Scorer) -> str:
    """Why it cannot run here, or ""."""
    try:
        scorer.check()
    except UserError as error:
        return str(error)
    return ""


def usable(names: Iterable[str]) -> tuple[list[str], dict[str, str]]:
    """Evaluators that can run here by their default settings, and why the others cannot."""
    found = [readiness(name) for name in names]
    return [one.name for one in found if one.ready], {one.name: one.missing for one in found if not one.ready}


def scorers_of(
    evaluators: Sequence[EvaluatorSettings], engine: Sequence[str] | None, *, online: bool = False
) -> list[Scorer]:
    """Every evaluator by every engine that was asked for; `online` lets official packages use the network.

    Raises UserError and MissingAsset for what one would miss.
    """
    engines = parse_engines(engine, [name_of(settings) for settings in evaluators])
    limits = worker.Limits(online=online)
    found = [Scorer(settings, each, limits) for settings in evaluators for each in engines[name_of(settings)]]
    for scorer in found:
        scorer.check()
    return found


def parse_engines(texts: Sequence[str] | None, names: Sequence[str]) -> dict[str, tuple[Engine, ...]]:
    """`official`, or `pickscore=native,hpsv2=both`: the engines of each evaluator. Raises UserError."""
    found: dict[str, tuple[Engine, ...]] = dict.fromkeys(names, ENGINES["native"])
    for part in (part.strip() for text in texts or () for part in text.split(",")):
        name, equals, engine = part.rpartition("=")
        if engine not in ENGINES:
            raise UserError(f'--engine {part}: unknown engine "{engine}"; {hint(engine, ENGINES)}')
        if equals and name not in found:
            raise UserError(f'--engine {part}: no evaluator "{name}" in this evaluation; {hint(name, found)}')
        found |= dict.fromkeys([name] if equals else names, ENGINES[engine])
    return found


def _command(message: str) -> str:
    found = re.search(r"`([^`]+)`", message)
    return found[1] if found else ""


def _bytes(path: Path) -> int:
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())
