"""`lpobench validate`: recipes, checked before they cost anything."""

from __future__ import annotations

from typing import Annotated

import typer

from lpobench.cli.exits import Exit
from lpobench.cli.options import Json
from lpobench.cli.output import say, show, show_json
from lpobench.plugin import UserError
from lpobench.problems import SettingsError
from lpobench.spec import load_spec


def validate(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE...", help="Recipe files, or names of built-in ones.")
    ],
    as_json: Json = False,
) -> None:
    """Check recipe files.

    Names, keys, types, and whether the parts fit together; one line per problem, and exit code 2.
    """
    reports = [_check(file) for file in files]
    if as_json:
        show_json(reports)
    else:
        for report in reports:
            if report["problems"]:
                say("\n".join(report["problems"]))
            else:
                show(f"{report['file']}: ok ({report['id']})")
    if any(report["problems"] for report in reports):
        raise typer.Exit(Exit.USAGE)


def _check(file: str) -> dict:
    try:
        return {"file": file, "id": load_spec(file).id, "problems": []}
    except SettingsError as error:
        problems = [str(problem) for problem in error.problems]
    except UserError as error:
        problems = [str(error)]
    named = [problem if file in problem else f"{file}: {problem}" for problem in problems]
    return {"file": file, "id": None, "problems": named}
