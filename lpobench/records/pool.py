"""The scores behind a comparison: pooled over seeds, with their intervals, and the best of each column marked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

import numpy as np

from lpobench.plugin import UserError
from lpobench.records.bootstrap import intervals
from lpobench.records.comparison import Column, Entry, Row
from lpobench.records.families import Family
from lpobench.records.prompt_scores import PromptScores, ScoreReader


class Pool:
    """The scores behind the families, read when they are asked for: only pooled seeds and the best two need them."""

    def __init__(self, found: Sequence[Family]):
        self.problems: list[str] = []
        self._reader, self._scores = ScoreReader(), {}
        self._ids: tuple[str, ...] | None = None
        self._settings = found[0].first.protocol
        self._ends = self._pooled_ends([family for family in found if len(family.records) > 1])

    def entry(self, family: Family, metric: str) -> Entry:
        """One metric of a family, not yet marked."""
        measured = [record.metrics[metric] for record in family.records]
        first, trained = measured[0], metric in family.first.optimised
        entry = Entry(
            fmean(m.mean_method for m in measured),
            fmean(m.difference for m in measured),
            first.low,
            first.high,
            first.win_rate,
            tuple(m.difference for m in measured),
            trained,
        )
        if len(measured) == 1:
            return entry
        low, high, win_rate = self._ends.get((id(family), metric), (None, None, None))
        return replace(entry, low=low, high=high, win_rate=win_rate)

    def marked(self, rows: Sequence[Row], group: Sequence[Family], columns: Sequence[Column]) -> list[Row]:
        """The rows of one base with the best of each column marked, where it is surely better than the runner-up."""
        best: dict[int, set[str]] = {}
        undecided: list[tuple[int, int, Column]] = []
        for column in columns:
            sign = 1 if column.higher_is_better else -1
            ranked = sorted(
                (place for place, row in enumerate(rows) if column.label in row.entries),
                key=lambda place: -sign * rows[place].entries[column.label].mean,
            )
            if len(ranked) < 2:
                continue
            first, second = ranked[:2]
            if first and second:
                undecided.append((first, second, column))
            elif _excludes_0(rows[first or second].entries[column.label]):
                best.setdefault(first, set()).add(column.label)
        for place, label in self._surely_better(undecided, group):
            best.setdefault(place, set()).add(label)
        return [_mark(row, best.get(place, set())) for place, row in enumerate(rows)]

    def _surely_better(
        self, pairs: Sequence[tuple[int, int, Column]], group: Sequence[Family]
    ) -> Iterable[tuple[int, str]]:
        """Of rows (counted with the base, which is row 0): those whose difference to the other excludes 0."""
        kept, differences, texts = [], [], ()
        for first, second, column in pairs:
            theirs = [self._method(group[place - 1]) for place in (first, second)]
            if any(scores is None for scores in theirs):
                continue
            texts = theirs[0].texts
            one, other = (scores.method[:, scores.metrics.index(column.metric)] for scores in theirs)
            kept.append((first, column.label))
            differences.append(one - other)
        if not kept:
            return []
        low, high = self._intervals(np.stack(differences, axis=1), texts)
        return [] if low is None else [k for k, a, b in zip(kept, low, high, strict=True) if a > 0 or b < 0]

    def _pooled_ends(self, several: Sequence[Family]) -> dict[tuple[int, str], tuple[Any, Any, float]]:
        """Interval and win rate of every metric of families with several seeds."""
        keys, differences, texts = [], [], ()
        for family in several:
            scores = self._method(family)
            if scores is None:
                continue
            texts, change = scores.texts, scores.method - scores.base
            for place, metric in enumerate(scores.metrics):
                keys.append((id(family), metric, family.first.metrics[metric].higher_is_better))
                differences.append(change[:, place])
        if not keys:
            return {}
        table = np.stack(differences, axis=1)
        low, high = self._intervals(table, texts)
        ends = {}
        for place, (family, metric, higher) in enumerate(keys):
            gain = table[:, place] if higher else -table[:, place]
            wins = float(np.mean(gain > 0) + np.mean(gain == 0) / 2)
            sure = (None, None) if low is None else (float(low[place]), float(high[place]))
            ends[family, metric] = (*sure, wins)
        return ends

    def _intervals(self, differences: np.ndarray, texts: Sequence[str]) -> tuple[Any, Any]:
        settings = self._settings
        return intervals(differences, texts, settings.confidence, settings.bootstrap_samples, settings.seed)

    def _method(self, family: Family) -> PromptScores | None:
        """Scores by prompt, averaged over the seeds, of the metrics that all runs have; None where a file is bad."""
        if id(family) not in self._scores:
            self._scores[id(family)] = self._read(family)
        return self._scores[id(family)]

    def _read(self, family: Family) -> PromptScores | None:
        shared = [name for name in family.first.metrics if family.version(name) is not None]
        base = method = 0.0
        for record in family.records:
            try:
                scores = self._reader.read(record)
            except UserError as error:
                self.problems.append(f"no pooled interval, and no bold, for {record.id}: {error}")
                return None
            self._ids = self._ids or scores.ids
            if scores.ids != self._ids:
                self.problems.append(
                    f"no pooled interval, and no bold, for {record.id}: it has other prompts"
                )
                return None
            places = [scores.metrics.index(name) for name in shared]
            base, method = base + scores.base[:, places], method + scores.method[:, places]
        num = len(family.records)
        return PromptScores(scores.ids, scores.texts, tuple(shared), base / num, method / num)


def _excludes_0(entry: Entry) -> bool:
    return entry.low is not None and entry.high is not None and (entry.low > 0 or entry.high < 0)


def _mark(row: Row, labels: set[str]) -> Row:
    marked = {label: replace(entry, best=label in labels) for label, entry in row.entries.items()}
    return replace(row, entries=marked)
