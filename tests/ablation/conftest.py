"""The command line, run in this process, and the fake plug-ins."""

from types import SimpleNamespace

import pytest
from fake_plugins import fakes  # noqa: F401

from lpobench.cli import main


@pytest.fixture
def cli(capsys):
    """`cli("ablate", "threshold")` -> code, out, err."""

    def run(*words: str) -> SimpleNamespace:
        code = main(words)
        out, err = capsys.readouterr()
        return SimpleNamespace(code=int(code), out=out, err=err)

    return run
