"""scores.csv: one row per image, columns variant, prompt_id, image, prompt, task, and one per metric."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from lpobench.plugin import MissingAsset, UserError

if TYPE_CHECKING:
    import pandas as pd

FILE = "scores.csv"


def write_scores(scores: pd.DataFrame, path: Path) -> None:
    """Every digit is kept: `read_scores` gives back the same numbers."""
    scores.to_csv(path, index=False, lineterminator="\n")


def read_scores(path: Path, metrics: Iterable[str]) -> pd.DataFrame:
    """The table with `metrics` and `image` as numbers and everything else as text, "NA" and "" included."""
    import pandas as pd

    try:
        scores = pd.read_csv(path, dtype=str, keep_default_na=False)
        numbers = {name: [float(value) for value in scores[name]] for name in metrics}
        return scores.assign(image=scores["image"].astype(int), **numbers)
    except FileNotFoundError:
        raise MissingAsset(f"no scores at {path}") from None
    except KeyError as column:
        raise UserError(f"{path} has no column {column}; columns: {', '.join(scores)}") from None
    except ValueError as reason:
        raise UserError(f"{path} cannot be read as scores: {reason}") from None
