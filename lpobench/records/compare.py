"""Makes a comparison of runs: those that differ in the seed alone are pooled, and all are set against the base.

Numbers of different protocols never share a comparison, those of different scorer versions never share a column.
Intervals are over prompts (see `bootstrap`); how much training seeds differ is told apart from them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lpobench.plugin import UserError
from lpobench.records.comparison import Column, Comparison, Entry, Row
from lpobench.records.effort import effort, reward_seconds
from lpobench.records.families import Family, conditions, families, key_of
from lpobench.records.pool import Pool
from lpobench.records.record import RunRecord
from lpobench.records.settings import flat, tell_apart

SAME = 1e-6
"""Relative difference up to which two means of the base are one."""


def comparisons(records: Sequence[RunRecord]) -> list[Comparison]:
    """One for each protocol, in the order in which they first appear."""
    groups: dict[str, list[RunRecord]] = {}
    for record in records:
        groups.setdefault(key_of(conditions(record.protocol)), []).append(record)
    return [compare_families(families(group)) for group in groups.values()]


def compare_families(found: Sequence[Family]) -> Comparison:
    """Families under one protocol, the base of each backbone first. Raises UserError for several protocols."""
    _check_protocol([family.first for family in found])
    columns, notes = _columns(found)
    pool = Pool(found)
    rewards = reward_seconds([record for family in found for record in family.records])
    by_base: dict[str, list[Family]] = {}
    for family in found:
        by_base.setdefault(family.base, []).append(family)
    names = _base_names(by_base)
    rows: list[Row] = []
    for base, group in by_base.items():
        head, odd = _base_row(names[base], group, columns)
        compared = [family for family in group if family.first.variant]
        others = [_row(names[base], family, columns, pool, rewards) for family in compared]
        rows += pool.marked([head, *others], compared, columns)
        notes += odd
    protocol = found[0].first.protocol.model_copy(update={"evaluators": {}})
    return Comparison(protocol, tuple(columns), tuple(rows), (*notes, *pool.problems))


def _check_protocol(records: Sequence[RunRecord]) -> None:
    """Raises UserError for records whose numbers must not share a table."""
    first = conditions(records[0].protocol)
    for record in records[1:]:
        here = conditions(record.protocol)
        if other := [name for name in first if first[name] != here[name]]:
            raise UserError(
                f"{record.id} and {records[0].id} are not comparable: they differ in {', '.join(other)}; numbers of "
                "different protocols never share a table"
            )


def _columns(found: Sequence[Family]) -> tuple[list[Column], list[str]]:
    """One per metric and version of its scorer; and what is left out."""
    versions: dict[str, dict[str, list[Family]]] = {}
    notes = []
    for family in found:
        for metric in family.first.metrics:
            version = family.version(metric)
            if version is None:
                run = family.first.id
                notes.append(f"{metric} of {run} is left out: its seeds were scored by several versions")
            else:
                versions.setdefault(metric, {}).setdefault(version, []).append(family)
    columns = []
    for metric, by_version in versions.items():
        told = _told_versions(metric, by_version)
        if told is None:
            notes.append(f"{metric} is left out: one backbone has several rewards of this name here")
            continue
        for (version, group), which in zip(by_version.items(), told, strict=True):
            first = group[0].first
            label, higher = f"{metric} ({which})" if which else metric, first.metrics[metric].higher_is_better
            columns.append(Column(metric, first.scorer_of(metric), version, higher, label))
    return columns, list(dict.fromkeys(notes))


def _told_versions(metric: str, by_version: Mapping[str, Sequence[Family]]) -> list[str] | None:
    """What tells the versions of a metric's scorer apart; None where it is a reward, of which one base has several.

    A reward that reads latents is another one on every backbone, and called by that.
    """
    if len(by_version) == 1:
        return [""]
    groups = list(by_version.values())
    if all(group[0].first.scorer_of(metric) != group[0].first.reward for group in groups):
        return [f"{group[0].first.scorer_of(metric)} {version}" for version, group in by_version.items()]
    bases = [base for group in groups for base in {family.base for family in group}]
    if len(set(bases)) < len(bases):
        return None
    return [", ".join(dict.fromkeys(family.first.backbone for family in group)) for group in groups]


def _row(
    backbone: str, family: Family, columns: Sequence[Column], pool: Pool, rewards: dict[str, float]
) -> Row:
    entries = {
        column.label: pool.entry(family, column.metric)
        for column in columns
        if family.version(column.metric) == column.version
    }
    seeds = tuple(record.seed for record in family.records) if family.first.trained else ()
    spent = effort(family.records, rewards)
    return Row(backbone, family.method, family.reward, family.setting, seeds, entries, family.records, spent)


def _base_row(name: str, group: Sequence[Family], columns: Sequence[Column]) -> tuple[Row, list[str]]:
    """The base of a group; and a note where its runs do not agree about it."""
    entries, notes, records = {}, [], [record for family in group for record in family.records]
    for column in columns:
        means = [
            record.metrics[column.metric].mean_base
            for record in records
            if column.metric in record.metrics and record.version_of(column.metric) == column.version
        ]
        if not means:
            continue
        entries[column.label] = Entry(means[0])
        if (gap := max(means) - min(means)) > SAME * max(map(abs, means)):
            notes.append(f"{name}: the base's own {column.label} differs by up to {gap:.2g} between its runs")
    return Row(name, "none", "", "", (), entries), notes


def _base_names(by_base: dict[str, list[Family]]) -> dict[str, str]:
    """What tables call each base: the backbone, and what tells it from another one of that name."""
    alike: dict[str, list[str]] = {}
    for base, group in by_base.items():
        alike.setdefault(group[0].first.backbone, []).append(base)
    names = {}
    for backbone, bases in alike.items():
        settings = []
        for base in bases:
            family = by_base[base][0]
            kept = {
                "backbone": family.first.spec.get("backbone"),
                "train": {"precision": family.precision},
            }
            settings.append(flat(kept))
        for base, setting in zip(
            bases,
            tell_apart(settings, [f"base {by_base[base][0].first.base[:8]}" for base in bases]),
            strict=True,
        ):
            names[base] = f"{backbone} ({setting})" if setting else backbone
    return names
