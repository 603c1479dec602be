"""The MPCF scores published with LPO: a CSV whose rows are those of Pick-a-Pic v1's train split, in its order.

Its rows carry no key. What shows that they are the same pairs is where the ties are: 71,907 among 583,747 rows, so
a CSV of another version, or shifted by one row, disagrees in tens of thousands of places.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from lpobench.data import mpcf
from lpobench.plugin import MissingAsset, UserError

DIFFERENT = "different_flag"
TRUTHS = {"true": True, "false": False, "1": True, "0": False, "1.0": True, "0.0": False}


def add_published_gaps(table: pd.DataFrame, num_rows: int, path: Path) -> tuple[pd.DataFrame, dict[str, int]]:
    """The table with the CSV's gaps, as they stand there, and what the comparison rests on.

    `table`: the good rows of the source opened with split "train", which has `num_rows` rows in all. Raises
    MissingAsset, and UserError where row by row the CSV is not about the same pairs.
    """
    scores = read_csv(path)
    if len(scores) != num_rows:
        raise UserError(f"{path} has {len(scores)} rows, the train split {num_rows}: they are not aligned")
    scores = scores.iloc[table["row"].to_numpy()].reset_index(drop=True)
    labelled = table["has_label"].to_numpy(dtype=bool)
    different = (table["label_0"] != table["label_1"]).to_numpy()
    wrong = labelled & (scores[DIFFERENT].to_numpy() != different)
    if wrong.any():
        at = int(wrong.argmax())
        word = {True: "a win-lose pair", False: "a tie"}
        raise UserError(
            f"{path} is not aligned with the train split: row {table['row'].iat[at]} is {word[bool(different[at])]} "
            f"there and {word[not different[at]]} in the CSV ({wrong.sum()} of {labelled.sum()} rows disagree)"
        )
    ties = labelled & ~different
    if not ties.any() or not (labelled & different).any():
        raise UserError(f"{path}: the train split has no ties to align by; the CSV cannot be trusted with it")
    negative = (scores.loc[ties, list(mpcf.GAPS)] < 0).any(axis=1).sum()
    evidence = {
        "rows": int(labelled.sum()),
        "ties": int(ties.sum()),
        "ties_with_a_negative_gap": int(negative),
    }
    return table.assign(**{gap: scores[gap].to_numpy() for gap in mpcf.GAPS}), evidence


def read_csv(path: Path) -> pd.DataFrame:
    """The CSV's flag as a truth, and its gaps as numbers."""
    if not path.is_file():
        raise MissingAsset(f"no CSV of MPCF scores at {path}")
    try:
        table = pd.read_csv(path, dtype={DIFFERENT: str})
    except (OSError, EOFError, ValueError) as error:
        raise UserError(f"cannot read {path}: {' '.join(str(error).split())[:200]}") from error
    if missing := [name for name in (DIFFERENT, *mpcf.GAPS) if name not in table]:
        raise UserError(
            f"{path} lacks the column {missing[0]}; its columns are {', '.join(table.columns[:12])}"
        )
    flags = table[DIFFERENT].str.strip().str.lower().map(TRUTHS)
    if flags.isna().any():
        at = int(flags.isna().to_numpy().argmax())
        raise UserError(
            f"{path}: {DIFFERENT} of row {at} should be True or False, got {table[DIFFERENT].iat[at]}"
        )
    for gap in mpcf.GAPS:
        if not pd.api.types.is_numeric_dtype(table[gap]):
            raise UserError(f"{path}: {gap} is not a number in every row")
    return table.assign(**{DIFFERENT: flags.astype(bool)})[[DIFFERENT, *mpcf.GAPS]]
