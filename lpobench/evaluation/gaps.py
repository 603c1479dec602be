"""What the official code says, beside ours."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from lpobench.evaluation.scorers import Scorer
from lpobench.records.evaluation import Difference
from lpobench.scoring.evaluate import metric_columns


def gaps(scorers: Sequence[Scorer], scores: pd.DataFrame) -> dict[str, Difference]:
    """Of every metric that both engines have scored, over the rows that both have: official minus native."""
    columns = metric_columns({scorer.label: scorer for scorer in scorers})
    found = {}
    for scorer in scorers:
        for metric in scorer.metrics:
            ours = columns.get((scorer.name, metric))
            if scorer.engine == "official" and ours is not None:
                gap = (scores[columns[scorer.label, metric]] - scores[ours]).dropna()
                found[metric] = Difference(mean=gap.mean(), largest=gap.abs().max())
    return found
