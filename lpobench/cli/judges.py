"""What `lpobench reward eval` and `lpobench score` judge with: any number of rewards on one backbone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import typer

from lpobench import registry
from lpobench.cli.output import say
from lpobench.draft import parse_override
from lpobench.plugin import EvaluatorSettings, RewardSettings, UserError
from lpobench.slots import DEFAULTS
from lpobench.spec import RunSpec, check_assets_of, load_spec

Rewards = Annotated[
    list[str] | None,
    typer.Option(
        "--reward",
        metavar="NAME[,KEY=VALUE...]",
        help="Reward model, with settings of its own such as lrm,weights=FOLDER; repeatable.",
        autocompletion=lambda incomplete: [n for n in registry.names("rewards") if n.startswith(incomplete)],
    ),
]
Noise = Annotated[int, typer.Option("--seed", min=0, metavar="N", help="Seed of the noise.")]


@dataclass(frozen=True)
class Judges:
    """Rewards by label, and a run that has the backbone, sampling and precision they share."""

    spec: RunSpec
    rewards: dict[str, RewardSettings]
    evaluators: tuple[EvaluatorSettings, ...] = ()


def judges_of(
    rewards: Sequence[str] | None,
    backbone: str | None,
    overrides: Sequence[str] | None,
    evaluators: str | None = None,
) -> Judges:
    """The rewards that are named (one: the default), settings checked and weights there.

    A label is a reward's name, or all that was written where a name comes twice. `--set reward.KEY` is for a single
    reward. Where only evaluators are named, there is no reward. Raises UserError and MissingAsset.
    """
    scorers = evaluators and [name.strip() for name in evaluators.split(",")]
    flags = {"backbone": backbone, "evaluators": scorers}
    if scorers and not rewards:
        spec = load_spec(None, {**flags, "method": "none"}, overrides or ())
        return Judges(spec, {}, spec.evaluators)
    texts, overrides = list(rewards or (DEFAULTS["reward"],)), list(overrides or ())
    if twice := next((text for text in texts if texts.count(text) > 1), None):
        raise UserError(
            f"--reward {twice} is given twice; name different rewards, or give them different settings"
        )
    meant = next((text for text in overrides if parse_override(text)[0][0] == "reward"), None)
    if meant and len(texts) > 1:
        raise UserError(
            f"--set {meant}: which of the {len(texts)} rewards? write --reward NAME,KEY=VALUE instead"
        )
    parsed = {text: _parse(text) for text in texts}
    names = [name for name, _ in parsed.values()]
    specs: dict[str, RunSpec] = {}
    for number, (text, (name, own)) in enumerate(parsed.items()):
        label = name if names.count(name) == 1 else text
        tell = say if number == 0 else (lambda line: None)
        specs[label] = load_spec(None, {**flags, "reward": name}, [*overrides, *own], tell)
    first = next(iter(specs.values()))
    check_assets_of(first.backbone)
    for spec in specs.values():
        check_assets_of(spec.reward)
    live = {label: spec.reward for label, spec in specs.items()}
    return Judges(first, live, first.evaluators if scorers else ())


def _parse(text: str) -> tuple[str, list[str]]:
    """`lrm,weights=x,vfe_scale=1` -> lrm and its overrides. A comma inside a value starts no setting."""
    name, *settings = re.split(r",(?=[\w.]+=)", text)
    return name.strip(), [f"reward.{setting}" for setting in settings]
