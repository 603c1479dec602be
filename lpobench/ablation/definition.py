"""Ablations by name or file, and what they are on a backbone."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeVar

from pydantic import JsonValue, ValidationError

from lpobench.ablation.format import About, Choice, Values, of_value, show
from lpobench.draft import parse_override
from lpobench.plugin import Settings, UserError
from lpobench.problems import explain, hint, show_value
from lpobench.records.sweep import Axis

T = TypeVar("T", bound=Settings)
BUILT_IN = Path(__file__).parent / "builtin"


@dataclass(frozen=True)
class Dimension:
    """An axis and its choices."""

    axis: Axis
    choices: tuple[Choice, ...]
    setting: bool
    """The axis is a setting, and other values than those listed can be given for it."""
    notes: tuple[str, ...] = ()
    also: Mapping[str, JsonValue] = field(default_factory=dict)

    def chosen(self, text: str) -> Dimension:
        """Only the choices in `--values`: by label, or, of a setting, any value. Raises UserError."""
        by_label = {choice.label: choice for choice in self.choices}
        picked = []
        for word in split(text):
            label = word if word in by_label else show(parse_value(word))
            if label in by_label:
                picked.append(by_label[label])
            elif self.setting:
                picked.append(of_value(self.axis.key, parse_value(word), None, self.also))
            else:
                raise UserError(f'--values {text}: no "{word}" on this axis; {hint(word, by_label)}')
        if not picked:
            raise UserError(f"--values: should be a list such as {', '.join(by_label)}")
        return replace(self, choices=tuple({choice.label: choice for choice in picked}.values()))


@dataclass(frozen=True)
class Ablation:
    """A named ablation for one backbone."""

    name: str
    about: About
    dimensions: tuple[Dimension, ...]

    @property
    def source(self) -> str:
        """Where the values are from, and why they are others on this backbone."""
        notes = [note for dimension in self.dimensions for note in dimension.notes]
        return " ".join(filter(None, (" ".join(self.about.source.split()), *notes)))

    def choosing(self, text: str | None) -> Ablation:
        """With `--values`, if given."""
        if text is None:
            return self
        if len(self.dimensions) != 1:
            raise UserError(
                f"--values: ablation {self.name} has {len(self.dimensions)} axes; edit its file instead"
            )
        return replace(self, dimensions=(self.dimensions[0].chosen(text),))


def built_in() -> dict[str, Path]:
    """Names and files of the ablations that are shipped."""
    return {file.stem: file for file in sorted(BUILT_IN.glob("*.toml"))}


def titles() -> dict[str, str]:
    """What is shipped, and a line about each."""
    return {name: _about(_document(path, name), name).title for name, path in built_in().items()}


def find(name: str) -> tuple[str, dict[str, Any], About]:
    """An ablation by built-in name or by file: its name, its axes as they are written, and what it says of itself."""
    known = built_in()
    path = known.get(name)
    if path is None:
        if not Path(name).is_file():
            raise UserError(f'no ablation "{name}": neither a file nor built in; {hint(name, known)}')
        path = Path(name)
    document = _document(path, name)
    if unknown := [key for key in document if key not in ("ablation", "sweep")]:
        raise UserError(
            f"{name}: {unknown[0]} is no table of an ablation; known: ablation, sweep. Settings of all cells belong "
            "to a recipe, which [ablation] names, or to its set"
        )
    axes = flattened(document.get("sweep", {}))
    if not axes:
        raise UserError(f'{name}: has no [sweep] with an axis, such as "method.beta" = [100, 500]')
    return path.stem, axes, _about(document, name)


def for_backbone(name: str, about: About, axes: Mapping[str, Any], backbone: str) -> Ablation:
    """The ablation as it is on a backbone."""
    dimensions = tuple(_dimension(key, written, name, backbone) for key, written in axes.items())
    for dimension in dimensions:
        if not dimension.choices:
            raise UserError(f"ablation {name}: nothing of {dimension.axis.label} is for backbone {backbone}")
    return Ablation(name, about, dimensions)


def flattened(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`method.beta = [1]` and `"method.beta" = [1]` alike: axes by dotted path."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and "values" not in value:
            found |= flattened(value, f"{path}.")
        else:
            found[path] = value
    return found


def split(text: str) -> list[str]:
    """`0.1,[0.05,0.15],std` -> its three values: commas inside brackets do not count."""
    return [part.strip() for part in re.findall(r"(?:\[[^\]]*\]|\{[^}]*\}|[^,\[{])+", text) if part.strip()]


def parse_value(text: str) -> Any:
    """As after --set."""
    return parse_override(f"value={text}")[1]


def _dimension(key: str, written: Any, name: str, backbone: str) -> Dimension:
    where = f"{name}: sweep.{key}"
    if isinstance(written, list) and written and all(isinstance(item, Mapping) for item in written):
        choices = [_read(Choice, item, f"{where}: {item.get('label', 'a choice')}") for item in written]
        fitting = tuple(choice for choice in choices if fnmatchcase(backbone, choice.on))
        return Dimension(Axis(key=key, label=key), fitting, False)
    if not isinstance(written, Mapping | list) or not written:
        raise UserError(f"{where}: should be a list of values, got {show_value(written)}")
    axis = _read(Values, written if isinstance(written, Mapping) else {"values": written}, where)
    here = [other for pattern, other in axis.on.items() if fnmatchcase(backbone, pattern)]
    notes = tuple(" ".join(other.source.split()) for other in here[-1:] if other.source)
    try:
        choices = (here[-1] if here else axis).choices(key, axis.also)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    named = Axis(key=key, label=axis.label or key.split(".")[-1])
    return Dimension(named, choices, True, notes, axis.also)


def _about(document: Mapping[str, Any], name: str) -> About:
    return _read(About, document.get("ablation", {}), f"{name}: ablation")


def _document(path: Path, name: str) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{name}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{name}: not valid TOML: {error}") from None


def _read(cls: type[T], table: Any, where: str) -> T:
    """A table of the file. Raises UserError with where it is."""
    try:
        return cls.model_validate(table)
    except ValidationError as error:
        problem = explain(error, cls, where.split(": ")[-1])[0]
        raise UserError(f"{where}: {problem}") from None
