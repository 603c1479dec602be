"""Preference data from a command line: score it, filter it, encode it. Each returns what there is to tell."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from lpobench.data import mpcf
from lpobench.data.pairs.authors import add_published_gaps
from lpobench.data.pairs.autoencoder import as_autoencoder
from lpobench.data.pairs.encode import plan_encoding
from lpobench.data.pairs.filter import by_strategy, filter_pairs, read_kept, take_kept, write_kept
from lpobench.data.pairs.gaps import add_gaps
from lpobench.data.pairs.plan import pair_table
from lpobench.data.pairs.record import Problems
from lpobench.data.pairs.rule import Rule
from lpobench.data.pairs.score import plan_scoring
from lpobench.data.pairs.shards import Shards, parse_worker
from lpobench.data.pairs.source import PairSource, open_pairs
from lpobench.data.pairs.texts import encode_texts
from lpobench.hashing import file_sha256
from lpobench.plugin import UserError
from lpobench.prepare import device_of, dtype_of
from lpobench.progress import progress
from lpobench.slots import name_of
from lpobench.spec import RunSpec

Say = Callable[[str], None]


def score_source(
    spec: RunSpec,
    source: PairSource,
    out: Path,
    worker: tuple[int, int],
    *,
    batch_size: int,
    per_shard: int | None,
    say: Say,
) -> dict[str, Any]:
    """Score the images of a source with the spec's evaluators, into `out`. Raises UserError."""
    require_images(source)
    table = pair_table(source)
    device = device_of(spec)
    scorers = {name_of(settings): settings.load(device, torch.float32) for settings in spec.evaluators}
    settings = {name_of(settings): settings.model_dump(mode="json") for settings in spec.evaluators}
    options = {"scorers": scorers, "settings": settings, "batch_size": batch_size, "say": say}
    plan = plan_scoring(source, table, out, per_shard, **options)
    with progress(images_of(plan.shards, worker), "scoring") as advance:
        done = replace(plan, advance=advance).run(worker)
    found = asdict(done)
    found["scored"] = found.pop("images")
    return {"pairs": len(table), "images": len(plan.images), **found, **problems_of(source.problems)}


def filter_source(
    source: PairSource,
    out: Path | None,
    *,
    scores: Path | None,
    authors: Path | None,
    strategy: str | None,
    rule: str | None,
    named: Mapping[str, str],
    scorers: list[str] | None,
    units: tuple[float, float, float],
    split: str | None,
) -> dict[str, Any]:
    """Keep the pairs a strategy or a rule passes, write them to `out`, and count. Raises UserError."""
    passes = Rule(rule) if rule is not None else by_strategy(strategy, units)
    table, made_of, evidence = pair_table(source), {}, None
    if authors:
        table, evidence = add_published_gaps(table, len(source), authors)
        made_of = dict.fromkeys(mpcf.GAPS, str(authors))
    elif scores:
        table, made_of = add_gaps(table, source, scores, named, source.problems, scorers)
    kept, counts = filter_pairs(table, passes, list(made_of), everywhere=split is not None)
    about = {
        "source": source.name,
        "split": split,
        "identity": source.identity(),
        "strategy": strategy,
        "rule": rule,
        "units": units,
        "gaps": made_of,
    }
    if out:
        write_kept(kept, out, about, counts)
    strategies = {}
    if all(gap in table for gap in mpcf.GAPS):
        for name in mpcf.STRATEGIES:
            _, other = filter_pairs(
                table, by_strategy(name, units), list(mpcf.GAPS), everywhere=split is not None
            )
            strategies[name] = {"win_lose": other.kept_win_lose, "ties": other.kept_ties}
    return {
        "kept": len(kept),
        "counts": asdict(counts),
        "strategies": strategies,
        "gaps": made_of,
        "aligned_by": evidence,
        **problems_of(source.problems),
    }


def encode_source(
    spec: RunSpec,
    source: PairSource,
    out: Path,
    worker: tuple[int, int],
    *,
    kept: Path | None,
    texts: bool,
    batch_size: int,
    per_shard: int | None,
    say: Say,
) -> dict[str, Any]:
    """Encode the images of a source's labelled pairs with the spec's backbone, into `out`. Raises UserError."""
    require_images(source)
    table = pair_table(source)
    rows = len(table)
    if kept:
        table = take_kept(table, read_kept(kept), source.problems)
    table = table[table["has_label"]].reset_index(drop=True)
    if not len(table):
        raise UserError(f"{kept or source.name} has no labelled pair to encode")
    backbone = spec.backbone.load(device_of(spec), dtype_of(spec))
    options = {"batch_size": batch_size, "say": say}
    plan = plan_encoding(source, table, as_autoencoder(backbone), out, per_shard, **options)
    with progress(images_of(plan.store.shards, worker), "encoding") as advance:
        done = replace(plan, advance=advance).run(worker, kept and file_sha256(kept))
    captions = encode_texts(table, backbone, out, worker, say=say) if texts else 0
    return {
        "pairs": len(table),
        "left_out": rows - len(table),
        "distinct_images": len(plan.images),
        "encoded": done.images,
        **{key: value for key, value in asdict(done).items() if key != "images"},
        "images_per_second": done.images / done.seconds if done.images else None,
        "outside_vae": done.outside if done.images else None,
        "captions": captions,
        **problems_of(source.problems),
    }


def open_source(name: str, split: str | None, *, stream: bool = False) -> PairSource:
    """`open_pairs`, for a command line that imports nothing heavy."""
    return open_pairs(name, split, stream=stream)


__all__ = ["encode_source", "filter_source", "open_source", "parse_units", "parse_worker", "score_source"]


def require_images(source: PairSource) -> None:
    if not source.has_images:
        raise UserError(f"{source.name} keeps latents only; scoring and encoding need the images")


def images_of(shards: Shards, worker: tuple[int, int]) -> int:
    """Images in a worker's share."""
    return sum(len(shards.range(number)) for number in shards.share(worker))


def problems_of(problems: Problems) -> dict[str, Any]:
    """What a summary says of the rows that are wrong."""
    return {"bad_rows": problems.summary(), "bad_row_lines": problems.lines()}


def parse_units(text: str) -> tuple[float, float, float]:
    """`0.15,3,1.5`: three positive numbers."""
    try:
        units = tuple(float(part) for part in text.split(","))
    except ValueError:
        units = ()
    if len(units) != 3 or not all(unit > 0 and math.isfinite(unit) for unit in units):
        raise UserError(f'units should be three numbers above 0, such as 0.15,3,1.5, got "{text}"')
    return units
