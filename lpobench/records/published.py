"""The numbers that the LPO paper printed (arXiv:2502.01051), as it printed them. Ours are never mixed with them."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from lpobench.plugin import UserError

FILE = "published.csv"
TITLES = {
    "general": "general preference, and GenEval's overall score at 20 and 50 steps",
    "t2i_compbench": "T2I-CompBench++",
    "geneval": "GenEval by task",
    "timing": "scoring the candidates of one step, seconds",
    "training_cost": "cost of training, A100 hours",
    "reward_models": "reward models on held-out pairs",
    "ablate_mpcf": "filtering of the preference data (MPCF)",
    "ablate_vfe": "guidance in the reward model's visual features (VFE)",
    "ablate_timesteps": "range of optimised timesteps",
    "ablate_threshold": "threshold of the preference margin",
    "ablate_threshold_strategy": "what the threshold grows with",
    "ablate_beta": "beta, the DPO temperature",
    "ablate_reward_timestep": "timestep that the reward model is told",
    "large_timesteps": "training at large timesteps",
    "grpo": "step-wise GRPO",
    "same_data_general": "SPO and LPO on the same data: general preference",
    "same_data_t2i_compbench": "SPO and LPO on the same data: T2I-CompBench++",
    "t2i_compbench_hpdv2": "trained on HPDv2's data: T2I-CompBench++",
    "mpcf_counts": "pairs that MPCF keeps",
}
"""Every table, in the order in which they are listed."""


@dataclass(frozen=True)
class Number:
    """One printed number. Text that does not apply is "" ."""

    source: str
    table: str
    backbone: str
    method: str
    setting: str
    metric: str
    value: str
    """With the digits it was printed with."""


@cache
def published() -> tuple[Number, ...]:
    """All of them, in the order of the file."""
    with (Path(__file__).parent / FILE).open(encoding="utf-8", newline="") as file:
        return tuple(Number(**row) for row in csv.DictReader(file))


def table_names() -> list[str]:
    """In the order of TITLES."""
    return list(TITLES)


def numbers_of(table: str) -> list[Number]:
    """Raises UserError for a table that the paper does not have."""
    found = [number for number in published() if number.table == table]
    if not found:
        raise UserError(f'no published table "{table}"; known: {", ".join(table_names())}')
    return found


def units(numbers: Sequence[Number]) -> str:
    """What a reader must know of how they were printed."""
    metrics = [number.metric for number in numbers]
    percent = [metric for metric in dict.fromkeys(metrics) if metric.startswith(("geneval", "pair_accuracy"))]
    percent += ["GenEval"] if any(number.table == "geneval" for number in numbers) else []
    scaled = [metric for metric in dict.fromkeys(metrics) if metric.startswith("hpsv2")]
    parts = [f"{', '.join(scaled)}: 100 x the cosine"] * bool(scaled)
    parts += [f"{', '.join(percent)}: percent"] * bool(percent)
    return "; ".join(["as printed", *parts, "no intervals were published, so nothing is bold"])
