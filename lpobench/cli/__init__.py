"""The command line: one file per verb. Nothing heavy is imported before a verb needs it."""

from lpobench.cli.app import main

__all__ = ["main"]
