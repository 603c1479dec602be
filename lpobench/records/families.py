"""Runs that differ in nothing but the training seed, and what tells one such family from another."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from lpobench.plugin import UserError
from lpobench.records.record import Protocol, RunRecord
from lpobench.records.settings import flat, tell_apart

FREE = ("seed", "device")
"""Parts of a spec in which pooled runs may differ."""


@dataclass(frozen=True)
class Family:
    """Runs of one recipe, by seed."""

    records: tuple[RunRecord, ...]
    setting: str = ""
    """What tells it from other families of this backbone, method and reward."""

    @property
    def first(self) -> RunRecord:
        return self.records[0]

    @property
    def base(self) -> str:
        """Which untouched backbone: equal for families that may be ranked against each other."""
        backbone = self.first.spec.get("backbone")
        return json.dumps([self.first.backbone, backbone, self.precision], sort_keys=True)

    @property
    def precision(self) -> str | None:
        """Of the untouched backbone's weights."""
        train = self.first.spec.get("train", {})
        return "fp32" if train.get("parameters") == "all" else train.get("precision")

    @property
    def method(self) -> str:
        return self.first.variant or self.first.method

    @property
    def reward(self) -> str:
        own = " (own)" if self.first.trained_reward else ""
        return f"{self.first.reward}{own}" if self.first.reward else ""

    def version(self, metric: str) -> str | None:
        """Of the metric's scorer; None where it was not scored by one version in all runs."""
        found = {r.version_of(metric) if metric in r.metrics else None for r in self.records}
        return found.pop() if len(found) == 1 else None


def families(records: Sequence[RunRecord]) -> list[Family]:
    """Records grouped by everything but the training seed, by the names of what they combine."""
    groups: dict[str, dict[int, RunRecord]] = {}
    for record in records:
        seeds = groups.setdefault(key_of(recipe(record)), {})
        if record.seed in seeds:
            raise UserError(
                f"{record.id} and {seeds[record.seed].id} are the same run: `lpobench runs rm` one"
            )
        seeds[record.seed] = record
    found = [Family(tuple(seeds[seed] for seed in sorted(seeds))) for seeds in groups.values()]
    alike: dict[tuple[str, ...], list[Family]] = {}
    for family in found:
        alike.setdefault((family.base, family.method, family.reward), []).append(family)
    return [
        replace(family, setting=setting)
        for _, group in sorted(alike.items())
        for family, setting in zip(group, _told_apart(group), strict=True)
    ]


def recipe(record: RunRecord) -> list[Any]:
    """Everything that decides a run's numbers but the seed."""
    spec = {key: value for key, value in record.spec.items() if key not in FREE}
    checkpoint = record.checkpoint.sha256 if record.checkpoint else None
    return [spec, record.limit, record.trained_reward is None, checkpoint, conditions(record.protocol)]


def conditions(protocol: Protocol) -> dict[str, Any]:
    """What numbers may be compared under; the version of each scorer is told column by column."""
    return protocol.model_dump(exclude={"evaluators"})


def _told_apart(group: Sequence[Family]) -> list[str]:
    return tell_apart([_settings(family.first) for family in group], [family.first.id for family in group])


def _settings(record: RunRecord) -> dict[str, str]:
    """Every setting that decides a result, by its path."""
    spec = {key: value for key, value in record.spec.items() if key not in (*FREE, "backbone")}
    limit = {} if record.limit is None else {"limit": record.limit}
    return flat(spec | limit)


def key_of(value: object) -> str:
    """One text for equal values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
