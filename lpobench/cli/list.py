"""`lpobench list`: everything that has a name."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from lpobench import registry
from lpobench.cli.options import Json
from lpobench.cli.output import columns, heading, show, show_json
from lpobench.data import assets
from lpobench.draft import built_in_recipes
from lpobench.evaluation.plan import protocol_notes
from lpobench.evaluation.scorers import readiness
from lpobench.plugin import UserError
from lpobench.problems import hint
from lpobench.sections import EvalSettings, LoraSettings, SamplingSettings, TrainSettings

SECTIONS = {"sampling": SamplingSettings, "lora": LoraSettings, "train": TrainSettings, "eval": EvalSettings}


def catalogue() -> dict[str, dict[str, str]]:
    """Kind -> name -> one line about it."""
    from lpobench.ablation.definition import titles

    plugins = {kind: {name: _summary(kind, name) for name in registry.names(kind)} for kind in registry.KINDS}
    recipes = {
        name: _first_comment(path.read_text(encoding="utf-8")) for name, path in built_in_recipes().items()
    }
    sections = {name: (cls.__doc__ or "").split("\n")[0] for name, cls in SECTIONS.items()}
    known_assets = {name: asset.note for name, asset in assets.table().items()}
    others = {"recipes": recipes, "sections": sections, "protocols": protocol_notes(), "ablations": titles()}
    return {**plugins, **others, "assets": known_assets}


def list_names(
    kind: Annotated[
        str | None,
        typer.Argument(
            metavar="[KIND]",
            help="backbones, rewards, methods, evaluators, recipes, sections, protocols, ablations, assets.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """List everything that has a name.

    Plug-ins, built-in recipes, the sections of settings, the protocols of evaluation, ablations and what can be
    downloaded, with a line about each. `lpobench list evaluators` also says which can run here, and what supplies the
    others.
    """
    if kind == "evaluators":
        return _list_evaluators(as_json)
    known = catalogue()
    if kind is not None and kind not in known:
        raise UserError(f'unknown kind "{kind}"; {hint(kind, known)}')
    chosen = known if kind is None else {kind: known[kind]}
    if as_json:
        return show_json(chosen)
    for number, (title, entries) in enumerate(chosen.items()):
        if number:
            show()
        heading(title)
        columns(entries.items())
    return None


def _list_evaluators(as_json: bool) -> None:
    """Which can run here, and what the others lack."""
    found = [readiness(name) for name in registry.names("evaluators")]
    if as_json:
        return show_json({"evaluators": {one.name: asdict(one) for one in found}})
    heading("evaluators")
    columns([(one.name, "ready" if one.ready else "missing", one.about) for one in found])
    for one in found:
        if one.licence or not one.ready:
            show(f"\n{one.name}: licence {one.licence or 'that of this project'}")
        if not one.ready:
            show(f"  {one.missing}")
    return None


def _summary(kind: registry.Kind, name: str) -> str:
    """A plug-in that cannot be imported is listed with the reason."""
    try:
        return registry.summary(kind, name)
    except UserError as error:
        return f"unusable: {error}"


def _first_comment(text: str) -> str:
    first = text.split("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""
