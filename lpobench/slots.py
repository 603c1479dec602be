"""A slot of a run: a plug-in's settings object in Python, a table with its `name` in TOML and JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BeforeValidator, PlainSerializer, SerializationInfo, ValidationError

from lpobench import registry
from lpobench.plugin import Settings, UserError
from lpobench.problems import Problem, SettingsError, explain

SLOTS: dict[str, registry.Kind] = {"backbone": "backbones", "method": "methods", "reward": "rewards"}
"""Slots that hold one plug-in. `evaluators` holds several."""
DEFAULTS = {"backbone": "tiny-sd15", "method": "lpo", "reward": "lrm", "evaluators": "shapes"}
"""The embedded run: what a slot holds when nobody names a plug-in."""
BASELINE = "none"
"""The method that trains nothing, which a run of a checkpoint has."""


def make(slot: str, table: str | Mapping[str, Any]) -> Any:
    """A plug-in's settings from its name, or from a table with its name (the slot's default without one)."""
    values = {"name": table} if isinstance(table, str) else dict(table)
    name = values.pop("name", DEFAULTS[slot])
    if not isinstance(name, str):
        raise SettingsError([Problem(("name",), ": should be a string")])
    try:
        cls = registry.get(SLOTS.get(slot, "evaluators"), name)
    except UserError as error:
        raise SettingsError([Problem(("name",), f": {error}", error.exit_code)]) from error
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        raise SettingsError(explain(error, cls, name)) from error


def name_of(settings: Settings) -> str:
    """The name of a plug-in's settings object."""
    kind = next(kind for kind, base in registry.KINDS.items() if isinstance(settings, base))
    return registry.name_of(kind, type(settings))


def slot(name: str) -> tuple[BeforeValidator, PlainSerializer]:
    """How pydantic reads and writes a slot."""

    def read(value: object) -> object:
        return make(name, value) if isinstance(value, str | Mapping) else value

    def write(value: Settings | None, info: SerializationInfo) -> dict[str, Any] | None:
        return value and {"name": name_of(value), **value.model_dump(mode=info.mode)}

    return BeforeValidator(read), PlainSerializer(write)
