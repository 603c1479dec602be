"""`lpobench bench ...`: what things cost on this machine."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from lpobench.cli import options
from lpobench.cli.output import show, show_json, show_rich
from lpobench.spec import check_assets_of

app = typer.Typer(rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def bench(context: typer.Context) -> None:
    """Measure time and memory on this machine."""
    if context.invoked_subcommand is None:
        show(context.get_help())


@app.command()
def backbone(
    recipe: options.Recipe = None,
    backbone: options.Backbone = None,
    overrides: options.Set = None,
    dtype: Annotated[
        str | None, typer.Option(metavar="fp32|bf16|fp16", help="Precision: train.precision of the run.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, metavar="N", help="Latents per denoiser call.")] = 1,
    resolution: Annotated[
        int | None, typer.Option(min=1, metavar="PIXELS", help="Side of the images: backbone.resolution.")
    ] = None,
    warmup: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Calls before timing; 3 on a GPU, 1 on a CPU.")
    ] = None,
    repeats: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Timed calls; 20 on a GPU, 3 on a CPU.")
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print markdown.")] = False,
    as_json: options.Json = False,
) -> None:
    """Parameters, memory, and seconds per decoded image, denoiser call and training step of a backbone.

    Adapter, guidance and precision are those of the backbone's recipe. --set backbone.weights=random measures
    the true architecture with nothing downloaded. Timings on a CPU are indicative.
    """
    chosen = {"train.precision": dtype, "backbone.resolution": resolution}
    flags = [f"{key}={value}" for key, value in chosen.items() if value is not None]
    spec = options.spec_of(recipe, [*(overrides or ()), *flags], backbone=backbone)
    check_assets_of(spec.backbone)
    from lpobench.timing.backbone import backbone_costs  # torch is imported here

    costs = backbone_costs(spec, batch=batch, warmup=warmup, repeats=repeats)
    if as_json:
        return show_json(asdict(costs))
    from lpobench.report import costs as report
    from lpobench.report import tables

    header, sections = report.backbone_header(costs), report.backbone_sections(costs)
    return show(tables.markdown(header, sections)) if markdown else show_rich(tables.stack(header, sections))
