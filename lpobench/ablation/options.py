"""What all cells are told, and how one becomes a run: its specification, and the words that make it by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from lpobench.draft import override
from lpobench.slots import SLOTS
from lpobench.spec import RunSpec, load_spec

Say = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """What `lpobench ablate` was told of all cells. The first seven are those of `lpobench run`."""

    recipe: str | None = None
    backbone: str | None = None
    method: str | None = None
    reward: str | None = None
    evaluators: tuple[str, ...] | None = None
    overrides: tuple[str, ...] = ()
    limit: int | None = None
    values: str | None = None
    seeds: tuple[int, ...] | None = None
    train_reward: bool = False
    gpus: int | None = None
    """More than one: passed on to every cell."""
    out: Path = Path("results/runs")
    usual_out: Path = Path("results/runs")
    """Where `lpobench run` puts runs without being told."""
    command: str = ""
    """The command line itself."""

    @property
    def slots(self) -> dict[str, str]:
        """The plug-ins that were named."""
        named = {"backbone": self.backbone, "method": self.method, "reward": self.reward}
        return {slot: name for slot, name in named.items() if name is not None}


def resolve(options: Options, settings: Mapping[str, JsonValue], seed: int | None, say: Say) -> RunSpec:
    """The run that `words_of` describe."""
    slots, overrides = _split(options, settings)
    evaluators = list(options.evaluators) if options.evaluators else None
    flags = {**slots, "evaluators": evaluators, "seed": seed}
    return load_spec(options.recipe, flags, overrides, say)


def words_of(
    options: Options, settings: Mapping[str, JsonValue], seed: int, *, alone: bool = False
) -> tuple[str, ...]:
    """What follows `lpobench`; `alone`: of the training of its reward, which takes fewer."""
    slots, overrides = _split(options, settings)
    words = ["reward", "train"] if alone else ["run"]
    if options.recipe:
        words += ["-c", options.recipe]
    for slot, name in slots.items():
        words += [f"--{slot}", name]
    if options.evaluators and not alone:
        words += ["--evaluators", ",".join(options.evaluators)]
    for text in overrides:
        words += ["--set", text]
    words += ["--seed", str(seed)]
    if options.limit is not None and not alone:
        words += ["--limit", str(options.limit)]
    if (options.gpus or 0) > 1:
        words += ["--gpus", str(options.gpus)]
    if options.out != options.usual_out:
        words += ["--out", str(options.out)]
    return tuple(words)


def _split(options: Options, settings: Mapping[str, JsonValue]) -> tuple[dict[str, str], list[str]]:
    """Plug-ins by slot, and everything else as it follows --set."""
    named = {key: str(value) for key, value in settings.items() if key in SLOTS}
    others = [override(key, value) for key, value in settings.items() if key not in SLOTS]
    return {**options.slots, **named}, [*options.overrides, *others]
