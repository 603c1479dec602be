"""`lpobench data filter`: which preference pairs to train on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lpobench.cli import curate, options
from lpobench.cli.output import check_writable, columns, say, show, show_json
from lpobench.plugin import UserError
from lpobench.problems import hint

PUBLISHED = {"none": (511_840, 71_907), "1": (101_573, 8_537), "2": (168_539, 8_537), "3": (201_885, 8_537)}
"""Win-lose pairs and ties of Pick-a-Pic v1's 583,747 training rows that each strategy keeps (LPO, appendix)."""


def filter_(
    source: curate.Source,
    scores: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="What `lpobench data score` wrote.")
    ] = None,
    authors: Annotated[
        Path | None, typer.Option(metavar="CSV", help="Or: the scores published with LPO.")
    ] = None,
    strategy: Annotated[str | None, typer.Option(metavar="none|1|2|3", help="Of MPCF; published: 2.")] = None,
    rule: Annotated[
        str | None, typer.Option(metavar="RULE", help='Such as "aesthetic_gap > -0.5 and clipscore_gap > 0".')
    ] = None,
    gap: Annotated[
        list[str] | None,
        typer.Option(metavar="GAP=SCORER.METRIC", help="What a gap is made from; repeatable."),
    ] = None,
    scorers: Annotated[str | None, typer.Option(metavar="A,B", help="Use these of the scores only.")] = None,
    units: Annotated[
        str, typer.Option(metavar="A,B,C", help="Size of one published unit of the three gaps in this data.")
    ] = "1,1,1",
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.csv.gz", help="The kept pairs; unset: only count.")
    ] = None,
    split: curate.Split = None,
    stream: curate.Stream = False,
    as_json: options.Json = False,
) -> None:
    """Keep the pairs on which several scorers agree with the label (MPCF), or those that pass a rule.

    Gaps are winner minus loser, absolute for ties. The training split is filtered; held-out pairs are kept.
    """
    if (strategy is None) == (rule is None):
        raise UserError("give --strategy none, 1, 2 or 3, or a --rule")
    if strategy is not None and strategy not in PUBLISHED:
        raise UserError(f'unknown strategy "{strategy}"; {hint(strategy, PUBLISHED)}')
    if (scores is not None) + (authors is not None) != 1 and not (
        strategy == "none" and not (scores or authors)
    ):
        raise UserError("give --scores FOLDER or --authors CSV")
    if out and not out.name.endswith(".csv.gz"):
        raise UserError(f"--out should end in .csv.gz, got {out}")
    if authors and split not in (None, "train"):
        raise UserError(f"the authors' CSV is of the split train, not {split}")
    named = dict(read_gap(text) for text in gap or ())
    if out:
        check_writable(out.parent)
    from lpobench.curate import filter_source, open_source, parse_units  # torch is imported here

    split = "train" if authors else split
    summary = filter_source(
        open_source(source, split, stream=stream),
        out,
        scores=scores,
        authors=authors,
        strategy=strategy,
        rule=rule,
        named=named,
        scorers=scorers and [name.strip() for name in scorers.split(",")],
        units=parse_units(units),
        split=split,
    )
    if as_json:
        return show_json(summary | {"published": PUBLISHED})
    show_counts(summary, strategy)
    return curate.tell(summary)


def read_gap(text: str) -> tuple[str, str]:
    """`aesthetic_gap=shapes.aesthetics`."""
    name, equals, source = text.partition("=")
    if not (equals and name.isidentifier() and source):
        raise UserError(
            f'--gap should be GAP=SCORER.METRIC, such as aesthetic_gap=shapes.aesthetics, got "{text}"'
        )
    return name, source


def show_counts(summary: dict[str, Any], strategy: str | None) -> None:
    counts = summary["counts"]
    rows = [
        ("rows", f"{counts['rows']:,}"),
        ("win-lose", f"{counts['win_lose']:,}"),
        ("ties", f"{counts['ties']:,}"),
    ]
    rows += [("without a label", f"{counts['unlabelled']:,}"), ("without a score", f"{counts['unscored']:,}")]
    rows += [("kept win-lose", f"{counts['kept_win_lose']:,}"), ("kept ties", f"{counts['kept_ties']:,}")]
    rows += [(f"kept of {split}, not filtered", f"{count:,}") for split, count in counts["held_out"].items()]
    columns(rows, indent=0)
    for gap, source in summary["gaps"].items():
        say(f"{gap}: {source}")
    if found := summary["aligned_by"]:
        say(
            f"aligned: {found['ties']:,} ties among {found['rows']:,} labelled rows stand where the CSV has them; "
            f"{found['ties_with_a_negative_gap']:,} of them have a negative gap there"
        )
    if not summary["strategies"]:
        return
    show("\nMPCF strategy beside the published count on Pick-a-Pic v1 train")
    table = [("", "win-lose", "published", "ties", "published")]
    for name, kept in summary["strategies"].items():
        cells = (kept["win_lose"], PUBLISHED[name][0], kept["ties"], PUBLISHED[name][1])
        table.append((f"{name}{' *' if name == strategy else ''}", *(f"{cell:,}" for cell in cells)))
    columns(table)
