"""Options that the verbs of `lpobench bench` share, and the run that they describe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from lpobench import registry
from lpobench.cli import options
from lpobench.plugin import UserError
from lpobench.spec import RunSpec, check_assets_of

Dtype = Annotated[
    str | None, typer.Option(metavar="fp32|bf16|fp16", help="Precision: train.precision of the run.")
]
Resolution = Annotated[
    int | None, typer.Option(min=1, metavar="PIXELS", help="Side of the images: backbone.resolution.")
]
Random = Annotated[
    bool,
    typer.Option("--random", help="Random weights at the true size, of backbone and rewards: no download."),
]
Prompts = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Prompts a round: train.prompts_per_round.")
]
NumRows = Annotated[
    int | None, typer.Option("--rows", min=1, metavar="N", help="Rows an update: train.minibatch, at once.")
]
Warmup = Annotated[
    int | None, typer.Option(min=0, metavar="N", help="Rounds before timing; unset: until they are stable.")
]
Repeats = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Timed rounds; unset: 20, or what 10 s are enough for.")
]
AllowBusy = Annotated[
    bool, typer.Option("--allow-busy", help="Measure on a GPU that others use, and say so in the result.")
]
Markdown = Annotated[bool, typer.Option("--markdown", help="Print markdown.")]


def chosen(
    *,
    dtype: str | None = None,
    resolution: int | None = None,
    prompts: int | None = None,
    rows: int | None = None,
) -> list[str]:
    """Overrides that options stand for."""
    values = {
        "train.precision": dtype,
        "backbone.resolution": resolution,
        "train.prompts_per_round": prompts,
        "train.minibatch": rows,
        "train.gradient_accumulation": None if rows is None else 1,
    }
    return [f"{key}={value}" for key, value in values.items() if value is not None]


def timed_spec(
    recipe: str | None,
    backbone: str | None,
    method: str | None,
    reward: str | None,
    overrides: Sequence[str],
    random: bool,
) -> RunSpec:
    """The run whose parts are timed. Raises UserError, and MissingAsset for weights that are not here."""
    if random:
        overrides = [*overrides, "backbone.weights=random"]
    spec = options.spec_of(recipe, overrides, backbone=backbone, method=method, reward=reward)
    if random and spec.reward is not None and "weights" in type(spec.reward).model_fields:
        settings = type(spec.reward).model_validate({**spec.reward.model_dump(), "weights": "random"})
        spec = spec.model_copy(update={"reward": settings})
    if not spec.method.trains:
        raise UserError("a method that trains nothing has no rounds and no updates to time")
    check_assets_of(spec.backbone)
    if spec.reward is not None:
        check_assets_of(spec.reward)
    return spec


def randomised(text: str) -> str:
    """A reward with random weights, unless it has none or names its own."""
    name = text.partition(",")[0].strip()
    has_weights = "weights" in registry.get("rewards", name).model_fields
    return f"{text},weights=random" if has_weights and "weights=" not in text else text


def numbers(axis: str, text: str) -> tuple[int, ...]:
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and int(word) > 0 for word in words):
        raise UserError(f"--{axis} {text}: should be whole numbers such as 2,4,8")
    return tuple(int(word) for word in words)
