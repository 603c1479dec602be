"""Options that several verbs share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from lpobench import registry
from lpobench.cli.output import say
from lpobench.data import assets
from lpobench.draft import built_in_recipes
from lpobench.launch import environment
from lpobench.plugin import UserError
from lpobench.slots import name_of
from lpobench.spec import RunSpec, load_spec

RUNS = Path("results/runs")


def _named(kind: registry.Kind) -> Callable[[str], list[str]]:
    return lambda incomplete: [name for name in registry.names(kind) if name.startswith(incomplete)]


def _recipes(incomplete: str) -> list[str]:
    return [name for name in built_in_recipes() if name.startswith(incomplete)]


Recipe = Annotated[
    str | None,
    typer.Option(
        "--recipe", "-c", metavar="NAME|FILE", help="Built-in recipe or TOML file.", autocompletion=_recipes
    ),
]
Backbone = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="The diffusion model.", autocompletion=_named("backbones")),
]
Method = Annotated[
    str | None, typer.Option(metavar="NAME", help="Training method.", autocompletion=_named("methods"))
]
Reward = Annotated[
    str | None, typer.Option(metavar="NAME", help="Reward model.", autocompletion=_named("rewards"))
]
Evaluators = Annotated[
    str | None,
    typer.Option(metavar="A,B", help="Scorers of the finished images.", autocompletion=_named("evaluators")),
]
Engine = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[NAME=]native|official|both",
        help="Ours, the official package in an environment of its own, or both and their difference.",
    ),
]
Online = Annotated[
    bool,
    typer.Option(
        "--online", help="Official packages may download: their environment, once, and what they ask for."
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="One setting, such as method.beta=200; repeatable."),
]
Checkpoint = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|PATH",
        help="Weights to score in place of training: published ones, or a LoRA or denoiser of yours.",
        autocompletion=lambda incomplete: [n for n in assets.names("checkpoint") if n.startswith(incomplete)],
    ),
]
Gpus = Annotated[
    int | None,
    typer.Option(
        min=1, metavar="N", help="Share the work between N processes here, each with a GPU; same result."
    ),
]
Nodes = Annotated[
    int | None,
    typer.Option(min=1, metavar="M", help="Of M machines, on each of which the same command is started."),
]
Seed = Annotated[int | None, typer.Option(min=0, metavar="N", help="Seed of the training.")]
Out = Annotated[Path, typer.Option(metavar="FOLDER", help="Where runs are kept, one folder each.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


def spec_of(
    recipe: str | None,
    overrides: list[str] | None,
    *,
    backbone: str | None = None,
    method: str | None = None,
    reward: str | None = None,
    evaluators: str | None = None,
    checkpoint: str | None = None,
    seed: int | None = None,
) -> RunSpec:
    """The run these options describe; what is dropped on the way is told on stderr."""
    scorers = evaluators and [name.strip() for name in evaluators.split(",")]
    flags = {"backbone": backbone, "method": method, "reward": reward, "evaluators": scorers}
    flags |= {"checkpoint": checkpoint, "seed": seed}
    quiet = environment.launched()  # the launcher has said it
    return load_spec(recipe, flags, overrides or (), (lambda line: None) if quiet else say)


def require_reward(spec: RunSpec) -> None:
    """Raises UserError for a run whose method has no reward to train."""
    if spec.reward is None:
        raise UserError(f"method {name_of(spec.method)} needs no reward, so there is none to train")
