"""From an ablation and the options of all its cells to the cells: specs, ids, commands, and what they share."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from itertools import product
from pathlib import Path

from lpobench.ablation.definition import Ablation, find, for_backbone
from lpobench.ablation.format import Choice
from lpobench.ablation.options import Options, Say, resolve, words_of
from lpobench.draft import override, parse_override
from lpobench.plugin import MissingAsset, RewardSettings, UserError
from lpobench.records.record import find_complete, run_name
from lpobench.records.sweep import FOLDER, Cell, Sweep
from lpobench.spec import RunSpec


@dataclass(frozen=True)
class Planned:
    """One cell, and the run that it is."""

    cell: Cell
    spec: RunSpec
    words: tuple[str, ...]
    """What follows `lpobench`."""
    training: str | None
    """Identity of the training of its reward model; None where it is loaded."""
    training_words: tuple[str, ...] = ()
    """What trains that alone."""


@dataclass(frozen=True)
class Plan:
    """A sweep before it starts."""

    sweep: Sweep
    cells: tuple[Planned, ...]
    left_out: tuple[tuple[str, str], ...]
    """Labels and why they cannot run here."""
    missing: MissingAsset | None
    """The first thing that a cell would ask for in vain."""

    @property
    def folder(self) -> str:
        """The sweep's, beside the runs."""
        return f"{FOLDER}/{self.sweep.id}"

    @property
    def trainings(self) -> dict[str, list[Planned]]:
        """Cells that are still to be run, by the training of their reward model."""
        found: dict[str, list[Planned]] = {}
        for planned in self.cells:
            if planned.training and planned.cell.state != "complete":
                found.setdefault(planned.training, []).append(planned)
        return found


def plan(name: str, options: Options, say: Say) -> Plan:
    """The cells of an ablation, by built-in name or file. Raises UserError; no weight is read, nothing written.

    `say` is told, once each, what falls by the way while settings are put together.
    """
    said: set[str] = set()

    def once(line: str) -> None:
        if line not in said:
            said.add(line)
            say(line)

    stem, axes, about = find(name)
    options = replace(
        options,
        recipe=options.recipe or about.recipe,
        backbone=options.backbone or about.backbone,
        method=options.method or about.method,
        reward=options.reward or about.reward,
        overrides=(*(override(key, value) for key, value in about.set.items()), *options.overrides),
        seeds=options.seeds or about.seeds,
        train_reward=options.train_reward or about.train_reward,
    )
    base = resolve(options, {}, None, once)
    backbone = base.model_dump(mode="json")["backbone"]["name"]
    ablation = for_backbone(stem, about, axes, backbone).choosing(options.values)
    _check_free(ablation, options)
    return _plan(ablation, options, base, once)


def _plan(ablation: Ablation, options: Options, base: RunSpec, say: Say) -> Plan:
    seeds = options.seeds or (base.seed,)
    cells: list[Planned] = []
    left_out: list[tuple[str, str]] = []
    missing = missing_of(base, options.train_reward)
    for combination in product(*(dimension.choices for dimension in ablation.dimensions)):
        label = label_of(ablation, combination)
        try:
            found = _seeds(ablation, combination, label, options, seeds, partial(_say_of, say, label))
            lacks = missing_of(found[0].spec, found[0].training is not None)
            if lacks and missing is None and any(choice.optional for choice in combination):
                raise lacks
        except UserError as error:
            if not any(choice.optional for choice in combination):
                raise _told(error, f"ablation {ablation.name}, {label}") from None
            left_out.append((label, str(error)))
            continue
        cells += found
        missing = missing or lacks
    if not cells:
        label, reason = left_out[0]
        raise UserError(f"ablation {ablation.name}: nothing can run here; {label}: {reason}")
    _check_different(ablation, cells)
    names = {planned.cell.run: planned.cell.label for planned in cells}
    alike = resolve(options, {}, seeds[0], _unsaid)
    sweep = Sweep(
        id=f"{ablation.name}-{_digest(cells)}",
        name=ablation.name,
        title=ablation.about.title,
        source=ablation.source,
        axes=tuple(dimension.axis for dimension in ablation.dimensions),
        baseline=names.get(run_name(alike.id, options.limit, trains(alike, options.train_reward))),
        command=options.command,
        seeds=tuple(seeds),
        started=datetime.now(UTC),
        cells=tuple(planned.cell for planned in cells),
    )
    return Plan(sweep, tuple(cells), tuple(left_out), missing)


def _seeds(
    ablation: Ablation,
    combination: Sequence[Choice],
    label: str,
    options: Options,
    seeds: Sequence[int],
    say: Say,
) -> list[Planned]:
    """One combination, once for each training seed; once in all where nothing is trained."""
    settings = {key: value for choice in combination for key, value in choice.set.items()}
    wanted = options.train_reward
    for choice in combination:
        wanted = wanted if choice.train_reward is None else choice.train_reward
    values = {
        dimension.axis.key: choice.label if choice.value is None else choice.value
        for dimension, choice in zip(ablation.dimensions, combination, strict=True)
    }
    found = []
    for seed in seeds:
        spec = resolve(options, settings, seed, say)
        training = trains(spec, wanted)
        words = (*words_of(options, settings, seed), *(("--train-reward",) if training else ()))
        run = run_name(spec.id, options.limit, training)
        cell = Cell(
            label=label,
            values=values,
            seed=seed,
            run=run,
            command=shlex.join(("lpobench", *words)),
            state="complete" if is_complete(options.out / run, spec) else "planned",
        )
        alone = words_of(options, settings, seed, alone=True)
        found.append(Planned(cell, spec, words, _training(spec) if training else None, alone))
        if not spec.method.trains:
            break
    return found


def trains(spec: RunSpec, wanted: bool) -> bool:
    """Whether the run trains its reward model first: if that is wanted, and there is one that has a training."""
    return wanted and spec.reward is not None and type(spec.reward).train is not RewardSettings.train


def missing_of(spec: RunSpec, training: bool) -> MissingAsset | None:
    """The first file that the run would ask for in vain."""
    try:
        spec.check_assets(trains_reward=training)
    except MissingAsset as error:
        return error
    return None


def is_complete(folder: Path, spec: RunSpec, *, looked: bool = False) -> bool:
    """Whether there is nothing left to do. Whether a run's checkpoint is still the same, the run itself has to say:
    `looked`, it has.
    """
    try:
        return (looked or spec.checkpoint is None) and find_complete(folder) is not None
    except UserError:  # a damaged record: the run has the word
        return False


def label_of(ablation: Ablation, combination: Sequence[Choice]) -> str:
    """What a table calls a cell."""
    if len(combination) == 1:
        return combination[0].label
    pairs = zip(ablation.dimensions, combination, strict=True)
    return ", ".join(f"{dimension.axis.label} {choice.label}" for dimension, choice in pairs)


def _training(spec: RunSpec) -> str:
    """What decides a reward model's training, as far as it can be told without reading weights."""
    document = spec.model_dump(mode="json")
    parts = [document["backbone"], document["reward"], spec.weights_precision, spec.seed]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _digest(cells: Sequence[Planned]) -> str:
    text = json.dumps([[planned.cell.label, planned.cell.run] for planned in cells])
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _check_free(ablation: Ablation, options: Options) -> None:
    """Raises UserError where an option fixes what the ablation varies."""
    varied = {key for dimension in ablation.dimensions for choice in dimension.choices for key in choice.set}
    for slot in options.slots.keys() & varied:
        if options.slots[slot] != getattr(ablation.about, slot):
            raise UserError(f"--{slot}: ablation {ablation.name} varies it itself; choose with --values")
    for text in options.overrides:
        key = ".".join(parse_override(text)[0])
        if key in varied:
            raise UserError(
                f"--set {text}: ablation {ablation.name} varies {key} itself; choose with --values"
            )


def _check_different(ablation: Ablation, cells: Sequence[Planned]) -> None:
    """Raises UserError for two labels that are the same run: what is varied has no effect there."""
    labels: dict[str, str] = {}
    for planned in cells:
        other = labels.setdefault(planned.cell.run, planned.cell.label)
        if other != planned.cell.label:
            raise UserError(
                f"ablation {ablation.name}: {other} and {planned.cell.label} are the same run, {planned.cell.run}: "
                "what is varied has no effect with this method, reward and backbone"
            )


def _unsaid(line: str) -> None:
    """It was said before."""


def _say_of(say: Say, label: str, line: str) -> None:
    say(f"{label}: {line}")


def _told(error: UserError, where: str) -> UserError:
    """The same error, with where it happened."""
    told = UserError(f"{where}: {error}")
    told.exit_code = error.exit_code
    return told
