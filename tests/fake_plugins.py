"""Small plug-ins for the tests of specs and of the command line; `fakes` registers them alone."""

from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import pytest
from pydantic import AfterValidator, Field, PositiveFloat

from lpobench import draft, registry, slots
from lpobench.plugin import (
    BackboneSettings,
    EvaluatorSettings,
    MethodSettings,
    MissingAsset,
    RewardSettings,
    Settings,
    UserError,
)


class Toy(BackboneSettings):
    """A small backbone.

    More about it.
    """

    width: int = 8
    """channels"""
    weights: Path | None = None
    """folder"""

    @property
    def latent_space(self):
        return "toy-space"

    def assets(self):
        return {"weights": self.weights} if self.weights else {}


class Other(BackboneSettings):
    """A backbone with another latent space."""

    @property
    def latent_space(self):
        return "other-space"


class Pairwise(MethodSettings):
    """Pairs."""

    needs: ClassVar = frozenset({"prompts", "reward"})

    beta: PositiveFloat = 5.0
    """temperature"""
    min_gap: tuple[float, float] = (0.3, 0.5)
    """margins"""
    ratio_clip: Annotated[float, Field(gt=0, lt=1)] | None = 0.1
    """clip"""
    threshold: Literal["std", "constant"] = "std"
    """strategy"""


class Listwise(MethodSettings):
    """Lists."""

    needs: ClassVar = frozenset({"prompts", "reward"})

    group: int = 4
    """candidates"""


class Idle(MethodSettings):
    """Nothing."""

    trains: ClassVar = False


def _not_a_pickle(path):
    if isinstance(path, Path) and path.suffix == ".bin":
        raise UserError(f"{path} is a pickle; give a folder of safetensors")
    return path


class Fit(Settings):
    """How a reward is trained."""

    steps: int = 10
    """steps"""


class Latent(RewardSettings):
    """Reads latents."""

    weights: Annotated[Literal["shipped"] | Path, AfterValidator(_not_a_pickle)] = "shipped"
    """folder"""
    scale: float | None = None
    """scale"""
    fit: Fit = Fit()
    """training"""

    @property
    def latent_space(self):
        if self.weights != "shipped" and not self.weights.exists():
            raise MissingAsset(f"no reward in {self.weights}")
        return "toy-space"


class Pixel(RewardSettings):
    """Reads images."""


class Ruler(EvaluatorSettings):
    """Measures."""

    version: ClassVar = "1"
    metrics: ClassVar = {}

    unit: str = "cm"
    """unit"""


class Clock(EvaluatorSettings):
    """Times."""

    version: ClassVar = "1"
    metrics: ClassVar = {}


NAMES = {
    "backbones": {"other": Other, "toy": Toy},
    "methods": {"idle": Idle, "listwise": Listwise, "pairwise": Pairwise},
    "rewards": {"latent": Latent, "pixel": Pixel},
    "evaluators": {"clock": Clock, "ruler": Ruler},
}

RECIPE = """\
# Pairs on the toy.
seed = 7

[backbone]
name = "toy"
width = 16

[method]
name = "pairwise"
beta = 50

[reward]
name = "latent"
scale = 2.0

[train]
num_updates = 30
"""


@pytest.fixture
def fakes(monkeypatch, tmp_path):
    """The fake plug-ins registered, toy/pairwise/latent/ruler the defaults, toy-pairwise the built-in recipe.

    The working folder is a fresh one, which is returned.
    """

    def table(kind):
        return {n: EntryPoint(n, f"fake_plugins:{cls.__name__}", kind) for n, cls in NAMES[kind].items()}

    monkeypatch.setattr(registry, "table", table)
    defaults = {"backbone": "toy", "method": "pairwise", "reward": "latent", "evaluators": "ruler"}
    for slot, name in defaults.items():
        monkeypatch.setitem(slots.DEFAULTS, slot, name)
    recipes = tmp_path / "recipes"
    recipes.mkdir()
    (recipes / "toy-pairwise.toml").write_text(RECIPE)
    monkeypatch.setattr(draft, "RECIPES", recipes)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return work
