"""`lpobench reward ...`: reward models on their own."""

from __future__ import annotations

import typer

from lpobench.cli import options
from lpobench.cli.output import check_writable, columns, show, show_json
from lpobench.launch import torchrun

app = typer.Typer(rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def reward(context: typer.Context) -> None:
    """Train a reward model on its own."""
    if context.invoked_subcommand is None:
        show(context.get_help())


@app.command()
def train(
    context: typer.Context,
    recipe: options.Recipe = None,
    backbone: options.Backbone = None,
    reward: options.Reward = None,
    overrides: options.Set = None,
    seed: options.Seed = None,
    gpus: options.Gpus = None,
    nodes: options.Nodes = None,
    out: options.Out = options.RUNS,
    as_json: options.Json = False,
) -> None:
    """Train the reward model of a run, and nothing else.

    Its settings are reward.* of the recipe and of --set.
    """
    spec = options.spec_of(recipe, overrides, backbone=backbone, reward=reward, seed=seed)
    options.require_reward(spec)
    check_writable(out)
    spec.check_assets(trains_reward=True)
    if torchrun.ran(context.obj, spec.device, gpus, nodes):
        return None
    from lpobench.run import train_reward_only  # torch is imported here

    summary = train_reward_only(spec, out)
    if as_json:
        return show_json(summary)
    measured = summary.pop("measured")
    columns([(key, str(value)) for key, value in summary.items()], indent=0)
    for split, rows in measured.items():
        show(f"\n{split}")
        columns([tuple(rows[0]), *(tuple(f"{value:.4g}" for value in row.values()) for row in rows)])
    return None
