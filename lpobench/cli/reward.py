"""`lpobench reward ...`: reward models on their own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lpobench.cli import options
from lpobench.cli.curate import Batch
from lpobench.cli.judges import Noise, Rewards, judges_of
from lpobench.cli.output import check_writable, columns, say, show, show_json, show_rich
from lpobench.evaluation.scorers import scorers_of
from lpobench.launch import torchrun
from lpobench.slots import DEFAULTS

app = typer.Typer(rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def reward(context: typer.Context) -> None:
    """Train a reward model on its own, or measure how good one is."""
    if context.invoked_subcommand is None:
        show(context.get_help())


@app.command()
def train(
    context: typer.Context,
    recipe: options.Recipe = None,
    backbone: options.Backbone = None,
    method: options.Method = None,
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
    spec = options.spec_of(recipe, overrides, backbone=backbone, method=method, reward=reward, seed=seed)
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


@app.command("eval")
def evaluate(
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where tables and the chart go.")],
    reward: Rewards = None,
    backbone: options.Backbone = None,
    pairs: Annotated[
        str, typer.Option(metavar="SOURCE", help="Preference pairs: shipped, latents, a cache, or images.")
    ] = "shapes-pairs",
    split: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Default: validation_unique and test_unique; repeatable."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="At most N pairs, evenly spread.")
    ] = None,
    timesteps: Annotated[
        str | None,
        typer.Option(metavar="T,T,...", help="Default: those of 20 sampling steps, and finished."),
    ] = None,
    seed: Noise = 0,
    batch: Batch = 32,
    overrides: options.Set = None,
    as_json: options.Json = False,
) -> None:
    """Measure rewards on held-out pairs at every noise level.

    Pair accuracy, calibration, margins, correlation with other scorers' gaps (Aes-Corr, CLIP-Corr, VQA-Corr) and
    agreement between rewards. A pair's two images get the same noise.
    """
    judges = judges_of(reward, backbone, overrides)
    check_writable(out)
    from lpobench.appraise import evaluate_rewards  # torch is imported here
    from lpobench.report.quality import quality_header, quality_sections
    from lpobench.report.tables import stack

    about, found = evaluate_rewards(
        judges.spec,
        judges.rewards,
        pairs,
        out,
        splits=split,
        limit=limit,
        timesteps=timesteps and [t.strip() for t in timesteps.split(",")],
        seed=seed,
        batch_size=batch,
    )
    if as_json:
        return show_json(about)
    show_rich(stack(quality_header(about), quality_sections(found)))
    return say(f"tables and chart are in {out}")


@app.command()
def foresee(
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the table and charts go.")],
    reward: Rewards = None,
    backbone: options.Backbone = None,
    evaluators: options.Evaluators = None,
    prompts: Annotated[int, typer.Option(min=2, metavar="N", help="Prompts of the evaluation.")] = 100,
    candidates: Annotated[int, typer.Option(min=2, metavar="K", help="Candidates of a step.")] = 4,
    every: Annotated[int, typer.Option(min=1, metavar="N", help="Look at every N-th step.")] = 3,
    seed: Noise = 0,
    batch: Annotated[int, typer.Option(min=1, metavar="N", help="Prompts at a time.")] = 16,
    overrides: options.Set = None,
    as_json: options.Json = False,
) -> None:
    """Measure rewards where methods use them: on the candidates of a sampling step.

    Every candidate is sampled to its end, and evaluators score the images, as do the rewards: how often does a reward
    rank candidates as their images will be ranked, and what is gained by its choice?
    """
    judges = judges_of(
        reward or [DEFAULTS["reward"]], backbone, overrides, evaluators or DEFAULTS["evaluators"]
    )
    scorers = scorers_of(judges.evaluators, None)
    check_writable(out)
    from lpobench.foresee import foresee as measure  # torch is imported here
    from lpobench.report.foresight import foresight_header, foresight_sections
    from lpobench.report.tables import stack

    about, found = measure(
        judges.spec,
        judges.rewards,
        scorers,
        out,
        num_prompts=prompts,
        num_candidates=candidates,
        every=every,
        seed=seed,
        batch_size=batch,
    )
    if as_json:
        return show_json(about)
    show_rich(stack(foresight_header(about), foresight_sections(found)))
    return say(f"the table and charts are in {out}")
