"""What is wrong with a setting, in one line each: where, what, the value, and what would be right."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from lpobench.plugin import UserError

KINDS = {
    "float": "a number",
    "int": "a whole number",
    "bool": "true or false",
    "string": "a string",
    "tuple": "a list",
    "list": "a list",
    "path": "a path",
    "model": "a table",
    "dict": "a table",
    "finite": "finite",
}
BOUNDS = {
    "greater_than": ("gt", ">"),
    "greater_than_equal": ("ge", ">="),
    "less_than": ("lt", "<"),
    "less_than_equal": ("le", "<="),
}


@dataclass(frozen=True)
class Problem:
    """One wrong setting."""

    path: tuple[str, ...]
    text: str
    """What follows the path, with its own separator: `: should be a number, got "abc"`."""
    exit_code: int = 2
    origin: str = ""
    """What goes before the path, to say who set the value: `my.toml: ` or `--set `."""

    def __str__(self) -> str:
        return self.origin + ".".join(self.path) + self.text if self.path else self.text.removeprefix(": ")


class SettingsError(UserError):
    """One or more wrong settings; the message is the first."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = list(problems)
        super().__init__(str(self.problems[0]))
        self.exit_code = self.problems[0].exit_code


def hint(word: str, known: Iterable[str]) -> str:
    """`did you mean "lrm"? known: lrm, spm`."""
    known = list(known)
    near = get_close_matches(word.lower(), known, n=1, cutoff=0.5)
    guess = f'did you mean "{near[0]}"? ' if near else ""
    return f"{guess}known: {', '.join(known) or 'none'}"


def explain(error: ValidationError, cls: type[BaseModel], owner: str) -> list[Problem]:
    """Pydantic's findings about `cls`, told to the user. Unknown keys are "not a setting of" the `owner`."""
    found: dict[tuple[str, ...], Problem] = {}
    for item in error.errors(include_url=False):
        for problem in _problems(item, cls, owner):
            if (twin := found.get(problem.path)) is None:
                found[problem.path] = problem
            elif problem.text != twin.text:  # branches of a union: any of them would do
                found[problem.path] = replace(twin, text=_either(twin.text, problem.text))
    return list(found.values())


def _problems(item: Any, cls: type[BaseModel], owner: str) -> list[Problem]:
    path, parent = _locate(item["loc"], cls)
    cause = item.get("ctx", {}).get("error")
    if item["type"] == "default_factory_not_called":  # it needed a value that is a problem already
        return []
    if isinstance(cause, SettingsError):
        return [replace(inner, path=path + inner.path) for inner in cause.problems]
    if item["type"] == "extra_forbidden":
        name = str(item["loc"][-1])
        whose = path[-1] if path else owner
        return [Problem((*path, name), f" is not a setting of {whose}; {hint(name, parent.model_fields)}")]
    if isinstance(cause, ValueError):
        return [Problem(path, f": {cause}", cause.exit_code if isinstance(cause, UserError) else 2)]
    return [Problem(path, f": {_describe(item)}")]


def _locate(loc: tuple[int | str, ...], cls: type[BaseModel]) -> tuple[tuple[str, ...], type[BaseModel]]:
    """The part of a pydantic location that a user types (no union branches), and the class it ends in."""
    path: list[str] = []
    inside: type[BaseModel] | None = cls
    for part in loc:
        if isinstance(part, int):
            path.append(str(part))
        elif inside is not None and part in inside.model_fields:
            path.append(part)
            annotation = inside.model_fields[part].annotation
            models = [a for a in (annotation, *get_args(annotation)) if isinstance(a, type)]
            parent, inside = inside, next((a for a in models if issubclass(a, BaseModel)), None)
        else:
            break
    return tuple(path), inside or parent


def _describe(item: Any) -> str:
    """`should be a number, got "abc"`."""
    kind, context = item["type"], item.get("ctx", {})
    if kind == "missing":
        return "is required"
    if kind == "literal_error":
        known = context["expected"].replace("'", '"').replace(" or ", ", ")
        wanted = f"one of {known}" if ", " in known else known
    elif kind in BOUNDS:
        key, sign = BOUNDS[kind]
        wanted = f"{sign} {context[key]}"
    elif kind in ("too_short", "too_long"):
        limit = "min_length" if kind == "too_short" else "max_length"
        wanted = f"a list of at {'least' if kind == 'too_short' else 'most'} {context[limit]}"
    elif kind.split("_")[0] in KINDS:
        wanted = KINDS[kind.split("_")[0]]
    else:
        return f"{item['msg'].removeprefix('Input ')}, got {show_value(item['input'])}"
    return f"should be {wanted}, got {show_value(item['input'])}"


def _either(first: str, second: str) -> str:
    """Two findings about one value: `should be a number or one of "a", "b", got "c"`."""
    wanted, _, got = first.rpartition(", got ")
    other = second.rpartition(", got ")[0].removeprefix(": should be ")
    return f"{wanted} or {other}, got {got}" if wanted and other else first


def show_value(value: object) -> str:
    """A value as a recipe would spell it, cut short."""
    if isinstance(value, dict):
        return "a table"
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
