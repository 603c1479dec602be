"""`lpobench data score` and `encode`: preference pairs through models, once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lpobench.cli import options
from lpobench.cli.output import check_writable, columns, say, show_json
from lpobench.plugin import UserError
from lpobench.problems import hint
from lpobench.slots import name_of
from lpobench.spec import RunSpec, load_spec

Source = Annotated[
    str, typer.Argument(metavar="SOURCE", help="Parquet, folder, glob, asset, shapes or shapes:ROWS.")
]
Split = Annotated[str | None, typer.Option(metavar="NAME", help="Only this split, such as train.")]
Stream = Annotated[
    bool, typer.Option("--stream", help="Read from the Hub, if the data is not on this machine.")
]
Worker = Annotated[
    str, typer.Option("--shard", metavar="I/N", help="Do the I-th of N equal shares, from 0/N on.")
]
Batch = Annotated[int, typer.Option(min=1, metavar="N", help="Images that go through the model at once.")]
PerShard = Annotated[int | None, typer.Option(min=1, metavar="N", help="Images in a file of the result.")]


def score(
    source: Source,
    scorers: Annotated[
        str, typer.Option(metavar="A[.METRIC],B", help="Evaluators; all their metrics are kept.")
    ],
    out: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Where scores are kept; scorers can be added later.")
    ],
    split: Split = None,
    shard: Worker = "0/1",
    batch: Batch = 16,
    shard_images: PerShard = None,
    overrides: options.Set = None,
    stream: Stream = False,
    as_json: options.Json = False,
) -> None:
    """Score every image of preference pairs once.

    Can be stopped at any time; the same command goes on. Several machines share the work with --shard.
    """
    names = [name.strip().partition(".") for name in scorers.split(",")]
    spec = spec_for(overrides, evaluators=list(dict.fromkeys(name for name, _, _ in names)))
    check_metrics(spec, {name: metric for name, _, metric in names if metric})
    check_writable(out)
    from lpobench import curate  # torch is imported here

    pairs = curate.open_source(source, split, stream=stream)
    summary = curate.score_source(
        spec, pairs, out, curate.parse_worker(shard), batch_size=batch, per_shard=shard_images, say=say
    )
    if as_json:
        return show_json(summary)
    rows = [
        ("pairs", f"{summary['pairs']:,}"),
        ("distinct images under their captions", f"{summary['images']:,}"),
    ]
    for name, reused in summary["reused"].items():
        now = summary["scored"].get(name, 0)
        rows.append((f"scored by {name}", f"{now:,} now, {reused:,} before"))
    columns(rows, indent=0)
    return tell(summary)


def encode(
    source: Source,
    backbone: options.Backbone,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="The latent cache.")],
    kept: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Only these: what `filter` wrote.")
    ] = None,
    texts: Annotated[bool, typer.Option("--texts", help="Keep text embeddings, too.")] = False,
    split: Split = None,
    shard: Worker = "0/1",
    batch: Batch = 16,
    shard_images: PerShard = None,
    overrides: options.Set = None,
    stream: Stream = False,
    as_json: options.Json = False,
) -> None:
    """Encode every image of preference pairs once with a backbone's VAE: mean and log-variance.

    Can be stopped at any time; the same command goes on, and makes damaged files again.
    """
    spec = spec_for(overrides, backbone=backbone)
    spec.check_assets()
    check_writable(out)
    from lpobench import curate  # torch is imported here

    summary = curate.encode_source(
        spec,
        curate.open_source(source, split, stream=stream),
        out,
        curate.parse_worker(shard),
        kept=kept,
        texts=texts,
        batch_size=batch,
        per_shard=shard_images,
        say=say,
    )
    if as_json:
        return show_json(summary)
    rows = [
        ("pairs", f"{summary['pairs']:,} ({summary['left_out']:,} without a label or not kept)"),
        ("distinct images", f"{summary['distinct_images']:,}"),
        ("encoded", f"{summary['encoded']:,} now, {summary['reused']:,} before"),
    ]
    if summary["images_per_second"]:
        rows.append(
            ("speed", f"{summary['images_per_second']:.0f} images/s, VAE idle {summary['outside_vae']:.0%}")
        )
    if texts:
        rows.append(("captions", f"{summary['captions']:,}"))
    columns(rows, indent=0)
    return tell(summary)


def spec_for(overrides: list[str] | None, **parts: object) -> RunSpec:
    """A run with the parts that are named; what else a run has is not used."""
    return load_spec(None, {"method": "none", **parts}, overrides or ())


def check_metrics(spec: RunSpec, wanted: dict[str, str]) -> None:
    """Raises UserError for a metric that its evaluator does not have."""
    for settings in spec.evaluators:
        metric = wanted.get(name_of(settings))
        if metric and metric not in settings.metrics:
            raise UserError(
                f'evaluator {name_of(settings)} has no metric "{metric}"; {hint(metric, settings.metrics)}'
            )


def tell(summary: dict[str, Any]) -> None:
    """What was wrong, on stderr; nothing is left out in silence."""
    for line in summary["bad_row_lines"]:
        say(line)
    for reason, count in summary.get("problems", {}).items():
        say(f"{count:,} image{'s' * (count > 1)} left out: {reason}")
