"""`lpobench bench ...`: what things cost on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lpobench.cli import bench_options, options
from lpobench.cli.bench_changes import command_of, compare_files
from lpobench.cli.judges import Rewards, judges_of
from lpobench.cli.output import say, show, show_json, show_rich
from lpobench.plugin import UserError
from lpobench.spec import check_assets_of

if TYPE_CHECKING:
    from lpobench.records.bench import Measurement

app = typer.Typer(rich_markup_mode=None)

Old = Annotated[
    Path | None,
    typer.Option(
        metavar="OLD.json",
        help="Say what changed since then. With a verb: since that. Alone: the same is measured again.",
    ),
]


@app.callback(invoke_without_command=True)
def bench(
    context: typer.Context,
    compare: Old = None,
    newer: Annotated[
        Path | None,
        typer.Option("--with", metavar="NEW.json", help="Compare OLD with this file; nothing is measured."),
    ] = None,
) -> None:
    """Measure time, work and memory on this machine.

    Every timing: a warm-up until rounds get no faster, 20 rounds or 10 s, median and quartiles, each round waited for.
    Files are what a verb prints with --json, or what `pytest tests/benchmarks --benchmark-json` writes.
    """
    context.meta["compare"] = compare
    if newer is not None and (compare is None or context.invoked_subcommand):
        raise UserError("--with NEW.json goes with --compare OLD.json, and with no verb")
    if context.invoked_subcommand is not None:
        return None
    if compare is None:
        return show(context.get_help())
    if newer is not None:
        return compare_files(compare, newer)
    words = command_of(compare)
    say(f"lpobench bench {' '.join(words)}")
    return app(words, standalone_mode=False, obj=["bench", *words])


@app.command()
def backbone(
    context: typer.Context,
    recipe: options.Recipe = None,
    backbone: options.Backbone = None,
    overrides: options.Set = None,
    dtype: bench_options.Dtype = None,
    batch: Annotated[int, typer.Option(min=1, metavar="N", help="Latents per denoiser call.")] = 1,
    resolution: bench_options.Resolution = None,
    random: bench_options.Random = False,
    warmup: bench_options.Warmup = None,
    repeats: bench_options.Repeats = None,
    allow_busy: bench_options.AllowBusy = False,
    markdown: bench_options.Markdown = False,
    as_json: options.Json = False,
) -> None:
    """Parameters, memory, and seconds per decoded image, denoiser call and training step of a backbone.

    Adapter, guidance and precision are those of the backbone's recipe. Timings on a CPU are indicative.
    """
    chosen = bench_options.chosen(dtype=dtype, resolution=resolution) + (
        ["backbone.weights=random"] if random else []
    )
    spec = options.spec_of(recipe, [*(overrides or ()), *chosen], backbone=backbone)
    check_assets_of(spec.backbone)
    from lpobench.timing.backbone import backbone_costs  # torch is imported here
    from lpobench.timing.stopwatch import Effort

    found = backbone_costs(spec, Effort.of(warmup, repeats), batch=batch, allow_busy=allow_busy)
    _tell(context, found, markdown, as_json)


@app.command()
def reward(
    context: typer.Context,
    rewards: Rewards = None,
    backbone: options.Backbone = None,
    overrides: options.Set = None,
    dtype: bench_options.Dtype = None,
    resolution: bench_options.Resolution = None,
    random: bench_options.Random = False,
    batch: Annotated[int, typer.Option(min=1, metavar="N", help="Prompts of a step.")] = 1,
    candidates: Annotated[int, typer.Option(min=2, metavar="K", help="Candidates per prompt.")] = 4,
    warmup: bench_options.Warmup = None,
    repeats: bench_options.Repeats = None,
    allow_busy: bench_options.AllowBusy = False,
    markdown: bench_options.Markdown = False,
    as_json: options.Json = False,
) -> None:
    """LRM against SPM and other rewards: a step's choice among k candidates, stage by stage.

    As in LPO's timing table, whose published rows stand beside it: denoising step, x0 prediction, VAE decode, reward.
    Default: lrm and spm.
    """
    texts = [bench_options.randomised(text) if random else text for text in rewards or ("lrm", "spm")]
    chosen = bench_options.chosen(dtype=dtype, resolution=resolution) + (
        ["backbone.weights=random"] if random else []
    )
    judges = judges_of(texts, backbone, [*(overrides or ()), *chosen])
    from lpobench.timing.rewards import reward_costs
    from lpobench.timing.stopwatch import Effort

    found = reward_costs(
        judges.spec,
        judges.rewards,
        Effort.of(warmup, repeats),
        batch=batch,
        candidates=candidates,
        allow_busy=allow_busy,
    )
    _tell(context, found, markdown, as_json)


@app.command()
def rollout(
    context: typer.Context,
    recipe: options.Recipe = None,
    backbone: options.Backbone = None,
    method: options.Method = None,
    reward: options.Reward = None,
    overrides: options.Set = None,
    dtype: bench_options.Dtype = None,
    resolution: bench_options.Resolution = None,
    random: bench_options.Random = False,
    prompts: bench_options.Prompts = None,
    warmup: bench_options.Warmup = None,
    repeats: bench_options.Repeats = None,
    allow_busy: bench_options.AllowBusy = False,
    markdown: bench_options.Markdown = False,
    as_json: options.Json = False,
) -> None:
    """One round of sampling and scoring of a run, split into its parts."""
    chosen = bench_options.chosen(dtype=dtype, resolution=resolution, prompts=prompts)
    spec = bench_options.timed_spec(recipe, backbone, method, reward, [*(overrides or ()), *chosen], random)
    from lpobench.timing.stopwatch import Effort
    from lpobench.timing.training import rollout_costs

    found = rollout_costs(spec, Effort.of(warmup, repeats), allow_busy=allow_busy)
    _tell(context, found, markdown, as_json)


@app.command()
def step(
    context: typer.Context,
    recipe: options.Recipe = None,
    backbone: options.Backbone = None,
    method: options.Method = None,
    reward: options.Reward = None,
    overrides: options.Set = None,
    dtype: bench_options.Dtype = None,
    resolution: bench_options.Resolution = None,
    random: bench_options.Random = False,
    rows: bench_options.NumRows = None,
    prompts: bench_options.Prompts = None,
    warmup: bench_options.Warmup = None,
    repeats: bench_options.Repeats = None,
    allow_busy: bench_options.AllowBusy = False,
    markdown: bench_options.Markdown = False,
    as_json: options.Json = False,
) -> None:
    """One optimiser step of a run, split into its parts. Its rows come from rounds of `--prompts`, not timed."""
    chosen = bench_options.chosen(dtype=dtype, resolution=resolution, prompts=prompts, rows=rows)
    spec = bench_options.timed_spec(recipe, backbone, method, reward, [*(overrides or ()), *chosen], random)
    from lpobench.timing.stopwatch import Effort
    from lpobench.timing.training import step_costs

    found = step_costs(spec, Effort.of(warmup, repeats), allow_busy=allow_busy)
    _tell(context, found, markdown, as_json)


@app.command()
def compare(
    context: typer.Context,
    recipe: options.Recipe = None,
    backbone: options.Backbone = None,
    overrides: options.Set = None,
    dtype: bench_options.Dtype = None,
    resolution: bench_options.Resolution = None,
    random: bench_options.Random = False,
    rows: bench_options.NumRows = None,
    prompts: bench_options.Prompts = None,
    warmup: bench_options.Warmup = None,
    repeats: bench_options.Repeats = None,
    allow_busy: bench_options.AllowBusy = False,
    markdown: bench_options.Markdown = False,
    as_json: options.Json = False,
) -> None:
    """LPO's round and optimiser step against the way its released code does them, in turns: ratios of medians.

    Both do the same maths on the same rows; the relative difference of their gradients is told.
    """
    chosen = bench_options.chosen(dtype=dtype, resolution=resolution, prompts=prompts, rows=rows)
    spec = bench_options.timed_spec(
        recipe, backbone, "lpo" if recipe is None else None, None, [*(overrides or ()), *chosen], random
    )
    from lpobench.timing.comparison import compared
    from lpobench.timing.stopwatch import Effort

    _tell(context, compared(spec, Effort.of(warmup, repeats), allow_busy=allow_busy), markdown, as_json)


@app.command()
def scaling(
    context: typer.Context,
    recipe: options.Recipe = None,
    backbone: options.Backbone = None,
    method: options.Method = None,
    reward: options.Reward = None,
    overrides: options.Set = None,
    dtype: bench_options.Dtype = None,
    random: bench_options.Random = False,
    candidates: Annotated[str | None, typer.Option(metavar="2,4,8", help="Candidates per prompt.")] = None,
    prompts: Annotated[str | None, typer.Option(metavar="1,2,4", help="Prompts a round.")] = None,
    steps: Annotated[str | None, typer.Option(metavar="5,10,20", help="Denoising steps.")] = None,
    resolution: Annotated[str | None, typer.Option(metavar="256,512", help="Sides of images.")] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE.png|.svg", help="Draw it.")] = None,
    warmup: bench_options.Warmup = None,
    repeats: bench_options.Repeats = None,
    allow_busy: bench_options.AllowBusy = False,
    markdown: bench_options.Markdown = False,
    as_json: options.Json = False,
) -> None:
    """How a round's cost grows with candidates, prompts, steps and resolution: times, work, exponents.

    Without values: 2 to 16 candidates, 1 to 16 prompts, 5 to 50 steps, half to one and a half times the resolution.
    """
    if plot is not None and plot.suffix not in (".png", ".svg"):
        raise UserError(f"--plot {plot}: should end in .png or .svg")
    given = {"candidates": candidates, "prompts": prompts, "steps": steps, "resolution": resolution}
    values = {axis: bench_options.numbers(axis, text) for axis, text in given.items() if text is not None}
    spec = bench_options.timed_spec(
        recipe, backbone, method, reward, [*(overrides or ()), *bench_options.chosen(dtype=dtype)], random
    )
    from lpobench.timing.scaling import growth
    from lpobench.timing.stopwatch import Effort

    found = growth(spec, values, Effort.of(warmup, repeats), allow_busy=allow_busy)
    if plot is not None:
        from lpobench.report.growth import draw_growth

        draw_growth(found, plot)
        say(f"drawn in {plot}")
    _tell(context, found, markdown, as_json)


def _tell(context: typer.Context, found: Measurement, markdown: bool, as_json: bool) -> None:
    """Print a measurement, and what changed since the one it is compared with."""
    from lpobench.records.bench import Measurement
    from lpobench.report import bench as report

    words = list(context.obj or ())
    found = found.model_copy(
        update={"words": tuple(words[words.index("bench") + 1 :]) if "bench" in words else ()}
    )
    old_path = context.meta.get("compare")
    old = None if old_path is None else Measurement.read(old_path)
    if as_json:
        return show_json(found.model_dump(mode="json"))
    header, sections = report.header(found), report.sections(found)
    if old is not None:
        header += [f"compared with {old_path}", *report.differences(old, found)]
        sections = [report.changes(old.timings, found.timings), *sections]
    from lpobench.report import tables

    return show(tables.markdown(header, sections)) if markdown else show_rich(tables.stack(header, sections))
