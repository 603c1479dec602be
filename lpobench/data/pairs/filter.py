"""Which pairs to train on, by the gaps between their scores: MPCF's strategies (LPO sec. 4.1), or a rule.

A gap is winner minus loser, for a tie the absolute difference. Training rows are filtered; held-out splits keep
every labelled pair, as published.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from lpobench.data import mpcf
from lpobench.data.pairs.record import Problems
from lpobench.data.pairs.shards import write_atomic
from lpobench.plugin import MissingAsset, UserError

KEYS = {
    "row": "int64",
    "split": str,
    "image_0_uid": str,
    "image_1_uid": str,
    "label_0": float,
    "label_1": float,
}
"""Columns of a kept table that say which pair of the source a row is; the gaps follow."""
FILTERED = "train"

Gaps = Float[np.ndarray, " rows"]
Passes = Callable[[pd.DataFrame], Bool[np.ndarray, " rows"]]


@dataclass(frozen=True)
class Counts:
    """What a filter found in the rows it looked at, and what it kept."""

    rows: int
    win_lose: int
    ties: int
    unlabelled: int
    unscored: int
    """Labelled rows that lack a gap; they are not kept."""
    kept_win_lose: int
    kept_ties: int
    held_out: dict[str, int]
    """Labelled pairs of the splits that are not filtered, all kept."""


def gap_of(table: pd.DataFrame, score_0: Gaps, score_1: Gaps) -> Gaps:
    """Winner minus loser; the absolute difference for a tie; NaN where a score or the label is not known."""
    lead = np.asarray(score_0, dtype=float) - np.asarray(score_1, dtype=float)
    balance = (table["label_0"] - table["label_1"]).to_numpy(dtype=float)
    gap = np.where(balance == 0, np.abs(lead), np.sign(balance) * lead)
    return np.where(table["has_label"].to_numpy(dtype=bool), gap, np.nan)


def by_strategy(name: str, units: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Passes:
    """One of mpcf.STRATEGIES; `units` is the size of one published unit of each gap in this data."""
    limits = mpcf.STRATEGIES[name]
    return lambda table: mpcf.keep(table, limits and limits.in_units(units))


def filter_pairs(
    table: pd.DataFrame, passes: Passes, gaps: list[str], *, everywhere: bool = False
) -> tuple[pd.DataFrame, Counts]:
    """The kept rows, in order, with their KEYS and `gaps`; and the counts.

    `table` has a source's columns and the gaps. Only the split "train" is filtered, or, with `everywhere`, all
    there is. A row without a label is never kept.
    """
    labelled = table["has_label"].to_numpy(dtype=bool)
    looked = np.ones(len(table), dtype=bool) if everywhere else table["split"].eq(FILTERED).to_numpy()
    if not looked.any():
        found = ", ".join(sorted(table["split"].unique())) or "none"
        raise UserError(
            f'no pair of the split "{FILTERED}" to filter; name one with --split (there: {found})'
        )
    tie = (table["label_0"] == table["label_1"]).to_numpy()
    lacking = table[gaps].isna().any(axis=1).to_numpy() if gaps else np.zeros(len(table), dtype=bool)
    kept = labelled & np.where(looked, passes(table), True)
    held_out = table.loc[labelled & ~looked, "split"].astype(str).value_counts().sort_index()
    counts = Counts(
        rows=int(looked.sum()),
        win_lose=int((looked & labelled & ~tie).sum()),
        ties=int((looked & labelled & tie).sum()),
        unlabelled=int((looked & ~labelled).sum()),
        unscored=int((looked & labelled & lacking).sum()),
        kept_win_lose=int((looked & kept & ~tie).sum()),
        kept_ties=int((looked & kept & tie).sum()),
        held_out={str(split): int(count) for split, count in held_out.items()},
    )
    return table.loc[kept, [*KEYS, *gaps]].reset_index(drop=True), counts


def write_kept(kept: pd.DataFrame, path: Path, about: dict[str, Any], counts: Counts) -> None:
    """Write the table, and beside it, in `PATH.json`, what it was made from. The same table gives the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = kept.to_csv(index=False, lineterminator="\n")
    write_atomic(path, gzip.compress(text.encode(), mtime=0))
    story = {**about, "counts": asdict(counts)}
    write_atomic(about_path(path), (json.dumps(story, indent=2, ensure_ascii=False) + "\n").encode())


def about_path(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def read_kept(path: Path) -> pd.DataFrame:
    """A table written by `write_kept`, its gap columns last. Raises MissingAsset and UserError."""
    if not path.is_file():
        raise MissingAsset(f"no table of kept pairs {path}; `lpobench data filter` writes one")
    try:
        kept = pd.read_csv(path, dtype=KEYS, keep_default_na=False, na_values={"": [""]})
    except (OSError, EOFError, ValueError) as error:
        raise UserError(f"cannot read {path}: {' '.join(str(error).split())[:200]}") from error
    if missing := [name for name in KEYS if name not in kept]:
        raise UserError(f"{path} is no table of kept pairs: it lacks the column {missing[0]}")
    return kept


def take_kept(table: pd.DataFrame, kept: pd.DataFrame, problems: Problems) -> pd.DataFrame:
    """The kept rows of a source's table, with the gaps. UserError where a row is not the pair it was.

    A kept row that the source no longer reads is a problem, which is counted.
    """
    found = pd.Index(table["row"]).get_indexer(kept["row"])
    for row in kept["row"][found < 0]:
        problems.add("a kept pair cannot be read", int(row))
    kept = kept[found >= 0].reset_index(drop=True)
    rows = table.iloc[found[found >= 0]].reset_index(drop=True)
    for name in KEYS:
        wrong = (rows[name] != kept[name]).to_numpy()
        if wrong.any():
            at = int(wrong.argmax())
            raise UserError(
                f"the kept pairs are of another source: {name} of row {kept['row'][at]} is "
                f"{rows[name][at]} here, {kept[name][at]} there ({wrong.sum()} of {len(kept)} rows differ)"
            )
    return rows.assign(**{name: kept[name] for name in kept.columns.difference(KEYS, sort=False)})
