"""What a row of a comparison took, from the costs of its runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

from lpobench.records.comparison import Effort
from lpobench.records.record import Cost, RunRecord

NO_TRAINING = ("load", "reward", "generate", "evaluate")
"""Phases that are not training, by their first word."""


def effort(records: Sequence[RunRecord], rewards: Mapping[str, float]) -> Effort:
    """Means over the runs; `rewards` as of `reward_seconds`."""

    def spent(record: RunRecord) -> Cost:
        some = [cost for name, cost in record.costs.items() if name.split()[0] not in NO_TRAINING]
        return Cost(**{kind: sum(getattr(cost, kind) for cost in some) for kind in Cost.model_fields})

    def evaluated(record: RunRecord) -> float:
        phases = (f"generate {record.variant}", f"evaluate {record.variant}")
        return sum(record.costs[name].seconds for name in phases if name in record.costs)

    trained = [rewards[record.trained_reward] for record in records if record.trained_reward]
    costs = [spent(record) for record in records]
    mean = {kind: fmean(getattr(cost, kind) for cost in costs) for kind in Cost.model_fields}
    return Effort(
        **mean,
        reward_seconds=fmean(trained) if trained else None,
        evaluation_seconds=fmean(map(evaluated, records)),
        peak_memory_bytes=fmean(record.peak_memory_bytes for record in records),
        devices=tuple(dict.fromkeys(_device(record) for record in records)),
    )


def _device(record: RunRecord) -> str:
    return record.device if record.processes == 1 else f"{record.processes} x {record.device}"


def reward_seconds(records: Iterable[RunRecord]) -> dict[str, float]:
    """Of every trained reward model, by its name in the cache. Older records do not tell: there the run that trained
    it took longest.
    """
    found: dict[str, float] = {}
    for record in records:
        if record.trained_reward:
            seconds = record.costs["reward"].seconds if "reward" in record.costs else 0.0
            seconds = seconds if record.reward_seconds is None else record.reward_seconds
            found[record.trained_reward] = max(found.get(record.trained_reward, 0.0), seconds)
    return found
