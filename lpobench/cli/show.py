"""`lpobench show`: the settings of a plug-in or section, or a recipe with every value spelt out."""

from __future__ import annotations

import tomllib
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from lpobench import registry
from lpobench.cli.list import SECTIONS
from lpobench.cli.options import Json
from lpobench.cli.output import heading, show, show_json, to_toml
from lpobench.draft import built_in_recipes
from lpobench.evaluation.plan import protocol_table
from lpobench.plugin import Settings, UserError
from lpobench.problems import hint, show_value
from lpobench.slots import name_of
from lpobench.spec import load_spec

SIGNS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}


def show_name(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="Plug-in, section, protocol, ablation, recipe, or recipe file."),
    ],
    as_json: Json = False,
) -> None:
    """Show settings, a protocol, a recipe in full, or the file of an ablation.

    Every setting of a plug-in or section with its default, type and meaning; or a recipe with every value.

    Where two kinds share a name, put the kind in front: methods/NAME.
    """
    from lpobench.ablation.definition import built_in

    if name in built_in_recipes() or name.endswith(".toml") or Path(name).is_file():
        spec = load_spec(name)
        document = spec.model_dump(mode="json")
        header = f"# id: {spec.id}\n# trains: {spec.trains}\n\n"
        return show_json(document) if as_json else show(f"{header}{to_toml(document)}".rstrip())
    if name in (files := built_in()):
        text = files[name].read_text(encoding="utf-8")
        return show_json(tomllib.loads(text)) if as_json else show(text.rstrip())
    if name in (known := protocol_table()):
        return show_json(known[name]) if as_json else show(to_toml(known[name]).rstrip())
    kind, cls, short = _find(name)
    rows = settings_of(cls)
    if as_json:
        summary = (cls.__doc__ or "").strip()
        return show_json({"kind": kind, "name": short, "summary": summary, "settings": rows})
    heading(f"{registry.singular(kind)} {short}")
    show((cls.__doc__ or "").strip() + "\n")
    for row in rows:
        show(f"  {row['name']} = {row['default']}  ({row['type']})\n      {row['help']}")
    return None if rows else show("  no settings")


def _find(name: str) -> tuple[str, type[Settings], str]:
    """Kind, class and short name of a plug-in or section."""
    known: dict[str, tuple[str, str]] = {f"sections/{section}": ("sections", section) for section in SECTIONS}
    known |= {f"{kind}/{short}": (kind, short) for kind in registry.KINDS for short in registry.names(kind)}
    from lpobench.ablation.definition import built_in

    found = [full for full, (_, short) in known.items() if name in (full, short)]
    if len(found) > 1:
        raise UserError(f'"{name}" is the name of several things; say which: {", ".join(found)}')
    if not found:
        names = [
            *dict.fromkeys(short for _, short in known.values()),
            *protocol_table(),
            *built_in(),
            *built_in_recipes(),
        ]
        raise UserError(f'unknown name "{name}"; {hint(name, names)}')
    kind, short = known[found[0]]
    return kind, SECTIONS[short] if kind == "sections" else registry.get(kind, short), short


def settings_of(cls: type[BaseModel], prefix: str = "") -> list[dict[str, str]]:
    """One row per setting: name (dotted inside a table), default, type, help."""
    rows = []
    for name, field in cls.model_fields.items():
        if (
            isinstance(field.annotation, type)
            and issubclass(field.annotation, BaseModel)
            and not _kind(field)
        ):
            rows += settings_of(field.annotation, f"{prefix}{name}.")
            continue
        help_text = " ".join((field.description or "").split())
        row = {
            "name": prefix + name,
            "default": _default(field),
            "type": _field_type(field),
            "help": help_text,
        }
        rows.append(row)
    return rows


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "required"
    return "none" if value is None else show_value(_plain(value))


def _plain(value: Any) -> Any:
    """As a recipe would have it: plug-ins by name, settings as tables."""
    if isinstance(value, tuple(registry.KINDS.values())):
        return name_of(value)
    if isinstance(value, BaseModel):
        return {key: _plain(inner) for key, inner in value}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _kind(field: FieldInfo) -> str | None:
    """Of a field that holds a plug-in: what kind of plug-in."""
    return next(
        (registry.singular(kind) for kind, cls in registry.KINDS.items() if cls is field.annotation), None
    )


def _field_type(field: FieldInfo) -> str:
    if kind := _kind(field):
        return kind
    first, *others = type_name(field.annotation).split(" or none")
    return " or none".join([first + _bounds(field.metadata), *others])


def type_name(annotation: Any) -> str:
    """A type as a user would say it: `number > 0 or none`."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_name(args[0]) + _bounds(args[1:])
    if origin is Literal:
        return " or ".join(map(show_value, args))
    if origin in (Union, UnionType):
        return " or ".join(map(type_name, args))
    if origin in (tuple, list):
        return f"list of {type_name(args[0])}"
    names = {
        float: "number",
        int: "whole number",
        bool: "true or false",
        str: "text",
        Path: "path",
        NoneType: "none",
    }
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _bounds(metadata: Any) -> str:
    """` > 0, < 1`, from annotated-types' marks, alone or inside a Field."""
    marks = [mark for item in metadata for mark in (item.metadata if isinstance(item, FieldInfo) else [item])]
    known = [(key, mark) for mark in marks if (key := type(mark).__name__.lower()) in SIGNS]
    return ",".join(f" {SIGNS[key]} {getattr(mark, key):g}" for key, mark in known)
