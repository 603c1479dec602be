"""Random pipelines of every family, made once for all tests of backbones."""

from pathlib import Path

import made_pipelines
import pytest


@pytest.fixture(scope="session")
def pipelines(tmp_path_factory) -> dict[str, Path]:
    """Folders by family; not to be written to."""
    root = tmp_path_factory.mktemp("pipelines")
    return {family: make(root / family) for family, make in made_pipelines.FAMILIES.items()}
