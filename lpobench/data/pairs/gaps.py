"""Scores to gaps: what filters look at."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from lpobench.data.pairs.filter import gap_of
from lpobench.data.pairs.plan import number_images
from lpobench.data.pairs.record import Problems
from lpobench.data.pairs.score import SCORER, SCORES, check_shard, description, read_shard
from lpobench.data.pairs.shards import Shards, read_claim, shard_name
from lpobench.data.pairs.source import PairSource
from lpobench.plugin import MissingAsset, UserError
from lpobench.problems import hint

PUBLISHED = {"aesthetic": "aesthetic_gap", "clipscore": "clipscore_gap", "vqascore": "vqascore_gap"}
"""Scorers behind the gaps of MPCF. Its limits are in points of the LAION predictor, raw cosines of CLIP ViT-H-14, and
probabilities of VQAScore."""


def add_gaps(
    table: pd.DataFrame,
    source: PairSource,
    folder: Path,
    named: Mapping[str, str],
    problems: Problems,
    scorers: list[str] | None = None,
) -> tuple[pd.DataFrame, dict[str, str]]:
    """The table with a gap for every metric in a folder of scores, and what each gap is made from.

    A gap is called SCORER_METRIC_gap, or as PUBLISHED and `named` (gap -> SCORER.METRIC) say. A pair whose image
    could not be scored has NaN there, and is counted. `scorers` picks some of the folder's (NAME or NAME@VERSION).
    """
    if not (folder / SCORES).is_file():
        raise MissingAsset(f"no scores in {folder}; `lpobench data score` makes them")
    images, about = number_images(table, by_caption=True), read_claim(folder / SCORES)
    shards = Shards(**about["shard"])
    here = description(source, table, shards)
    if different := [key for key in here if here[key] != about.get(key)]:
        raise UserError(
            f"{folder} holds scores of other pairs than {source.name}: its {different[0]} differs"
        )
    gaps, made_of = {}, {}
    for path in chosen(folder, scorers):
        scorer = read_claim(path / SCORER)
        scores = read_scores(path, scorer["metrics"], table, images, shards)
        for row in np.flatnonzero(scores["problem"].ne("").to_numpy()[images.of].any(axis=1)):
            problems.add("an image has no score", int(table["row"].iat[row]))
        for metric in scorer["metrics"]:
            values = scores[metric].to_numpy()[images.of]
            for gap in names_of(scorer["scorer"], metric, scorer["metrics"], named):
                if gap in made_of:
                    raise UserError(
                        f"{gap} would be made of {made_of[gap]} and of {path.name}.{metric}; pick one with --scorers"
                    )
                gaps[gap], made_of[gap] = gap_of(table, *values.T), f"{path.name}.{metric}"
    if missing := [gap for gap in named if gap not in gaps]:
        raise UserError(
            f"{missing[0]}={named[missing[0]]}: no such score; {hint(named[missing[0]], known(folder))}"
        )
    return table.assign(**gaps), made_of


def chosen(folder: Path, scorers: list[str] | None) -> list[Path]:
    """Folders of the scorers asked for."""
    there = {path.parent.name: path.parent for path in sorted(folder.glob(f"*/{SCORER}"))}
    if not scorers:
        return list(there.values())
    picked = []
    for name in scorers:
        found = [path for full, path in there.items() if name in (full, full.rpartition("@")[0])]
        if len(found) != 1:
            problem = f'no scores of "{name}"' if not found else f'"{name}" is there in several versions'
            raise UserError(f"{folder}: {problem}; {hint(name, there)}")
        picked += found
    return picked


def known(folder: Path) -> list[str]:
    scorers = [read_claim(path) for path in sorted(folder.glob(f"*/{SCORER}"))]
    return [f"{scorer['scorer']}.{metric}" for scorer in scorers for metric in scorer["metrics"]]


def names_of(scorer: str, metric: str, metrics: list[str], named: Mapping[str, str]) -> list[str]:
    """What the gaps of one metric are called: its own name, and what a user or the paper calls it."""
    aliases = {f"{scorer}.{metric}", scorer} if len(metrics) == 1 else {f"{scorer}.{metric}"}
    names = ["".join(c if c.isalnum() else "_" for c in f"{scorer}_{metric}_gap")]
    names += [gap for gap, source in named.items() if source in aliases]
    published = PUBLISHED.get(scorer)
    if published and published not in named and (len(metrics) == 1 or metric in (scorer, "score")):
        names.append(published)
    return list(dict.fromkeys(names))


def read_scores(path: Path, metrics: list[str], table: pd.DataFrame, images, shards: Shards) -> pd.DataFrame:
    """All shards of one scorer, one row per image in the order of their numbers. UserError unless all are there."""
    files = [path / shard_name(number, ".csv.gz") for number in range(len(shards))]
    if missing := sum(not file.exists() for file in files):
        raise UserError(
            f"{path} is not finished: {missing} of {len(files)} shards are missing; "
            "run the `lpobench data score` that began it again"
        )
    parts = []
    for number, file in enumerate(files):
        parts.append(read_shard(file, metrics))
        check_shard(parts[-1], table, images, shards.range(number), file)
    return pd.concat(parts, ignore_index=True)
