"""The app, and how errors leave it: one line on stderr and a documented exit code."""

from __future__ import annotations

import errno
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from lpobench import __version__
from lpobench.cli import reward
from lpobench.cli.doctor import doctor
from lpobench.cli.exits import Exit
from lpobench.cli.list import list_names
from lpobench.cli.output import say, show
from lpobench.cli.report import report
from lpobench.cli.run import run
from lpobench.cli.show import show_name
from lpobench.cli.validate import validate
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
app.command("report")(report)
app.command("doctor")(doctor)
app.add_typer(reward.app, name="reward")


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
        code = app([word for word in words if word != "--debug"], prog_name="lpobench", standalone_mode=False)
        return code if isinstance(code, int) else Exit.OK
    except typer.TyperException as error:  # an option or argument that does not exist or does not parse
        return _fail(error.format_message(), error.exit_code, debug)
    except UserError as error:
        return _fail(str(error), error.exit_code, debug)
    except (KeyboardInterrupt, typer.Abort):
        return Exit.INTERRUPTED
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return _fail(f"no space left on the disk of {error.filename or 'the run'}", Exit.FAILED, debug)
        return _crash()
    except Exception:
        return _crash()


def _fail(message: str, code: int, debug: bool) -> int:
    """An expected error."""
    if debug:
        traceback.print_exc()
    say(f"error: {' '.join(message.split())}")
    return code


def _crash() -> int:
    """An error of ours."""
    traceback.print_exc()
    say("error: unexpected; the traceback above is what a report needs, with `lpobench doctor`")
    return Exit.FAILED
