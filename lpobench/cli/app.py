"""The app, and how errors leave it: one line on stderr and a documented exit code."""

from __future__ import annotations

import errno
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from lpobench import __version__
from lpobench.cli import bench, data, reward, runs
from lpobench.cli.ablate import ablate
from lpobench.cli.convert import convert
from lpobench.cli.doctor import doctor
from lpobench.cli.download import download
from lpobench.cli.evaluate import evaluate
from lpobench.cli.exits import Exit
from lpobench.cli.list import list_names
from lpobench.cli.output import show
from lpobench.cli.published import published
from lpobench.cli.report import report
from lpobench.cli.run import run
from lpobench.cli.score import score
from lpobench.cli.show import show_name
from lpobench.cli.validate import validate
from lpobench.launch import environment
from lpobench.plugin import UserError

app = typer.Typer(
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("run")(run)
app.command("list")(list_names)
app.command("show")(show_name)
app.command("validate")(validate)
app.command("ablate")(ablate)
app.command("report")(report)
app.command("published")(published)
app.command("eval")(evaluate)
app.command("score")(score)
app.command("download")(download)
app.command("convert")(convert)
app.command("doctor")(doctor)
app.add_typer(data.app, name="data")
app.add_typer(reward.app, name="reward")
app.add_typer(bench.app, name="bench")
app.add_typer(runs.app, name="runs")


def _print_version(wanted: bool) -> None:
    if wanted:
        show(f"lpobench {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def lpobench(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Tracebacks of expected errors too; at any place.")
    ] = False,
) -> None:
    """Train and benchmark preference optimisation of text-to-image diffusion models.

    Any backbone x method x reward x evaluator, compared with the untouched base on the same noise.
    Start with `lpobench run`; `lpobench list` shows what there is.
    """
    if context.invoked_subcommand is None:
        show(context.get_help())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    try:
        plain = [word for word in words if word != "--debug"]
        code = app(plain, prog_name="lpobench", standalone_mode=False, obj=words)
        return code if isinstance(code, int) else Exit.OK
    except typer.TyperException as error:  # an option or argument that does not exist or does not parse
        return _fail(error.format_message(), error.exit_code, debug, error)
    except UserError as error:
        return _fail(str(error), error.exit_code, debug, error)
    except (KeyboardInterrupt, typer.Abort):
        return Exit.INTERRUPTED
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            message = f"no space left on the disk of {error.filename or 'the run'}"
            return _fail(message, Exit.FAILED, debug, error)
        return _crash(error)
    except Exception as error:
        return _crash(error)


def _fail(message: str, code: int, debug: bool, error: Exception) -> int:
    """An expected error. A launcher says it once for all its processes."""
    if debug:
        traceback.print_exc()
    line = " ".join(message.split())
    environment.report(line, error, code)
    if not environment.launched():
        typer.echo(f"error: {line}", err=True)
    return code


def _crash(error: Exception) -> int:
    """An error of ours."""
    traceback.print_exc()
    message = "unexpected; the traceback above is what a report needs, with `lpobench doctor`"
    return _fail(message, Exit.FAILED, False, error)
