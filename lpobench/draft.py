"""A run being put together: recipe, then flags, then `--set`. Errors name who set the value."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lpobench import registry
from lpobench.plugin import UserError
from lpobench.problems import Problem, hint, show_value
from lpobench.slots import DEFAULTS, SLOTS

RECIPES = Path(__file__).parent / "recipes"
Key = tuple[str, ...]


def built_in_recipes() -> dict[str, Path]:
    return {file.stem: file for file in sorted(RECIPES.glob("*.toml"))}


def recipe_for(backbone: str, method: str) -> str | None:
    """The built-in recipe of that combination, else of the backbone with the usual method, else none."""
    known, names = built_in_recipes(), (f"{backbone}-{method}", f"{backbone}-{DEFAULTS['method']}")
    return next((name for name in names if name in known), None)


def find_recipe(recipe: str | Path) -> tuple[Path, str]:
    """A recipe by built-in name or by file, and what to call it in messages."""
    known = built_in_recipes()
    if str(recipe) in known:
        return known[str(recipe)], f"recipe {recipe}"
    if not Path(recipe).exists():
        raise UserError(f'no recipe "{recipe}": neither a file nor built in; {hint(str(recipe), known)}')
    return Path(recipe), str(recipe)


def parse_override(text: str) -> tuple[Key, Any]:
    """`a.b=1e-4` -> (("a", "b"), 0.0001). A value that is not TOML is a bare string."""
    key, equals, value = text.partition("=")
    path = tuple(part.strip() for part in key.split("."))
    if not equals or not all(path):
        raise UserError(f"--set {text}: should be KEY=VALUE with a dotted key, such as train.num_updates=10")
    try:
        parsed = tomllib.loads(f"value = {value}")
    except tomllib.TOMLDecodeError:
        parsed = {}
    return path, parsed["value"] if list(parsed) == ["value"] else value.strip()


def override(key: str, value: Any) -> str:
    """The inverse of `parse_override`: what follows --set."""
    plain = isinstance(value, str) and re.fullmatch(r"(?!(true|false|inf|nan)$)[a-zA-Z_][\w-]*", value)
    return f"{key}={value if plain else toml_value(value)}"


def toml_value(value: Any) -> str:
    """A value as TOML spells it on one line; None is the text "none"."""
    if value is None:
        return '"none"'
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml_value, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{toml_key(key)} = {toml_value(inner)}' for key, inner in value.items())}}}"
    return json.dumps(value, ensure_ascii=False)


def toml_key(key: str) -> str:
    return key if re.fullmatch(r"[\w-]+", key) else json.dumps(key)


class Draft:
    """Nested values: a table per slot and section; evaluators are a table by name."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.values: dict[str, Any] = {}
        self.origins: dict[Key, str] = {}
        self.say = say

    def read(self, file: Path, origin: str) -> None:
        """The first layer: a recipe file."""
        try:
            self.values = tomllib.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"{origin}: cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise UserError(f"{origin}: not valid TOML: {error}") from error
        self.origins = {(): f"{origin}: "}
        for slot in SLOTS.keys() & self.values.keys():
            if isinstance(name := self.values[slot], str):
                self.values[slot] = {"name": name}
        if "evaluators" in self.values:
            self.values["evaluators"] = _by_name(self.values["evaluators"], origin)

    def choose(self, slot: str, name: str, origin: str) -> None:
        """The plug-in of a slot. Settings of the one it replaces go: they belong to another class."""
        registry.get(SLOTS[slot], name)
        value = self.values.get(slot)
        old = value if isinstance(value, dict) else {}
        before = old.get("name", DEFAULTS[slot])
        self.origins[(slot, "name")] = f"{origin}: "
        if before == name:
            self.values[slot] = {"name": name, **old}
            return
        self.values[slot] = {"name": name}
        if dropped := [key for key in old if key != "name"]:
            self.say(f"{origin}: {slot} {before} is replaced; its settings are dropped: {', '.join(dropped)}")

    def choose_evaluators(self, names: Sequence[str], origin: str) -> None:
        """The evaluators to score with; those that stay keep their settings."""
        for name in names:
            registry.get("evaluators", name)
        old = self.values.get("evaluators", {})
        self.values["evaluators"] = {name: old.get(name, {}) for name in names}
        self.origins[("evaluators",)] = f"{origin}: "

    def set(self, text: str) -> None:
        """One `--set KEY=VALUE`."""
        path, value = parse_override(text)
        origin = f"--set {text}"
        if path[0] in SLOTS and path[1:] in ((), ("name",)) and isinstance(value, str):
            self.choose(path[0], value, origin)
        elif path == ("evaluators",):
            self.choose_evaluators(list(_by_name(value, origin)), origin)
        else:
            if path[0] == "evaluators":
                chosen = self.values.setdefault("evaluators", {DEFAULTS["evaluators"]: {}})
                if path[1] not in chosen:
                    raise UserError(
                        f'{origin}: no evaluator "{path[1]}" in this run; {hint(path[1], chosen)}'
                    )
            self.put(path, value, "--set ")

    def put(self, path: Key, value: object, origin: str) -> None:
        """One value, at a path whose tables are made where they are missing."""
        table = self.values
        for key in path[:-1]:
            table[key] = _table(table.get(key))
            table = table[key]
        table[path[-1]] = value
        self.origins[path] = origin

    def drop_from_recipe(self, section: str, why: str) -> None:
        """Leave out a section that another setting has replaced; what --set says of it stays, and is judged."""
        values = self.values.get(section)
        if not isinstance(values, dict) or (section,) in self.origins:
            return
        asked = {key: value for key, value in values.items() if (section, key) in self.origins}
        if dropped := [f"{section}.{key}" for key in values if key not in asked]:
            self.say(f"{self.origins[()]}{', '.join(dropped)} not used, {why}")
        self.values[section] = asked

    def blame(self, problems: Sequence[Problem]) -> list[Problem]:
        """The problems, each with who set the value, and evaluators by name rather than by position."""
        blamed = []
        for problem in problems:
            path = problem.path
            if path[:1] == ("evaluators",) and len(path) > 1 and path[1].isdigit():
                path = ("evaluators", list(self.values["evaluators"])[int(path[1])], *path[2:])
            blamed.append(replace(problem, path=path, origin=self._origin(path)))
        return blamed

    def _origin(self, path: Key) -> str:
        """Who set the value there: exactly, then part of it, then a table around it."""
        inside = [key for key in self.origins if key[: len(path)] == path]
        around = [path[:length] for length in range(len(path), -1, -1)]
        return next((self.origins[key] for key in (*inside, *around) if key in self.origins), "")

    def table(self) -> dict[str, Any]:
        """The values as RunSpec takes them."""
        if "evaluators" not in self.values:
            return self.values
        listed = [{"name": name, **_table(v)} for name, v in self.values["evaluators"].items()]
        return self.values | {"evaluators": listed}


def _table(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _by_name(value: object, origin: str) -> dict[str, dict[str, Any]]:
    """`"a,b"`, `["a", "b"]`, `[{name = "a"}]` or `{a = {}}` -> settings by name."""
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
    if isinstance(value, dict) and all(isinstance(settings, dict) for settings in value.values()):
        return value
    found: dict[str, dict[str, Any]] = {}
    for item in value if isinstance(value, list) else [value]:
        settings = {"name": item} if isinstance(item, str) else dict(_table(item))
        name = settings.pop("name", None)
        if not isinstance(name, str):
            raise UserError(f"{origin}: evaluators: should be a list of names, got {show_value(value)}")
        if name in found:
            raise UserError(f'{origin}: evaluators: "{name}" is named twice')
        found[name] = settings
    return found
