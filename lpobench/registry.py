"""Plug-ins by name, from the entry points of installed packages. Nothing is imported until it is asked for.

A class that no package registers can be named as `module:Class`, to try a plug-in before packaging it.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Literal

from lpobench.plugin import (
    BackboneSettings,
    EvaluatorSettings,
    MethodSettings,
    MissingAsset,
    RewardSettings,
    Settings,
    UserError,
)
from lpobench.problems import hint

Kind = Literal["backbones", "rewards", "methods", "evaluators"]
KINDS: dict[Kind, type[Settings]] = {
    "backbones": BackboneSettings,
    "rewards": RewardSettings,
    "methods": MethodSettings,
    "evaluators": EvaluatorSettings,
}


def singular(kind: Kind) -> str:
    return kind.removesuffix("s")


@cache
def table(kind: Kind) -> dict[str, EntryPoint]:
    """Names users type, in alphabetical order, and what they stand for."""
    points: dict[str, EntryPoint] = {}
    for point in sorted(entry_points(group=f"lpobench.{kind}"), key=lambda point: point.name):
        other = points.setdefault(point.name, point)
        if other.value != point.value:
            raise UserError(
                f'two {kind} are called "{point.name}": {other.value} and {point.value}; uninstall one'
            )
    return points


def names(kind: Kind) -> list[str]:
    return list(table(kind))


def get(kind: Kind, name: str) -> type[Settings]:
    """The settings class behind a name."""
    point = EntryPoint(name, name, kind) if ":" in name else table(kind).get(name)
    if point is None:
        raise UserError(f'unknown {singular(kind)} "{name}"; {hint(name, names(kind))}')
    try:
        cls = getattr(import_module(point.module), point.attr, None)
    except ModuleNotFoundError as error:
        raise MissingAsset(
            f"{singular(kind)} {name} needs the module {error.name}, not installed here"
        ) from error
    if not (isinstance(cls, type) and issubclass(cls, KINDS[kind])):
        raise UserError(f"{singular(kind)} {point.value} is no {KINDS[kind].__name__} class")
    return cls


def name_of(kind: Kind, cls: type[Settings]) -> str:
    """The name `get` finds a settings class under."""
    value = f"{cls.__module__}:{cls.__qualname__}"
    return next((name for name, point in table(kind).items() if point.value == value), value)


def summary(kind: Kind, name: str) -> str:
    """The first line of the settings class's docstring."""
    return (get(kind, name).__doc__ or "").strip().split("\n")[0]
