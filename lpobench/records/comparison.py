"""The comparison of many runs, as data: one protocol, a column per metric, a row per combination, the base first.

Every format of `lpobench report` is written from this. Here it says what a comparison is; `compare_runs` makes one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import stdev

from lpobench.records.record import Protocol, RunRecord


@dataclass(frozen=True)
class Column:
    """One metric as one version of one scorer gives it. Another version is another column."""

    metric: str
    scorer: str
    version: str
    higher_is_better: bool
    label: str
    """What tables call it: the metric, and where two versions have scored it, which."""


@dataclass(frozen=True)
class Entry:
    """One metric of one row."""

    mean: float
    """Over prompts; the images of a prompt, and the training seeds, are averaged first."""
    difference: float | None = None
    """Mean over prompts of this row minus the base, on the same noise; None for the base itself."""
    low: float | None = None
    """Lower end of the interval of the difference: what other prompts would do to it. None with fewer than two."""
    high: float | None = None
    win_rate: float | None = None
    """Share of prompts on which it beats the base; a tie counts one half."""
    by_seed: tuple[float, ...] = ()
    """The mean difference of each run, in the order of the seeds."""
    trained_on: bool = False
    """The runs' reward is this very metric: it says how well the reward was followed, not how good the images are."""
    best: bool = False
    """Best of its base's rows in this column, by an interval of the difference to the runner-up that excludes 0."""

    @property
    def spread(self) -> float | None:
        """Standard deviation of the mean difference between training seeds; None with fewer than two."""
        return stdev(self.by_seed) if len(self.by_seed) > 1 else None


@dataclass(frozen=True)
class Effort:
    """What one run of a row took: means over its runs."""

    calls: float
    """Denoiser forward passes of training, reward model not counted."""
    rows: float
    """Latents that went through them."""
    decodes: float
    """Images that were decoded for training."""
    seconds: float
    """Wall time of training."""
    reward_seconds: float | None
    """Wall time of training the reward model, once for all runs that share it; None where none was trained."""
    evaluation_seconds: float
    """Wall time of making and scoring the images that are compared, as far as they were not there already."""
    peak_memory_bytes: float
    devices: tuple[str, ...]
    """What it ran on; times on different devices are not comparable."""


@dataclass(frozen=True)
class Row:
    """One combination, or the untouched base of the rows that follow."""

    backbone: str
    """With the settings that tell it from another base of this name."""
    method: str
    """ "none" for the base."""
    reward: str
    """ "" where there is none."""
    setting: str
    """What tells it from other rows of the same combination; "" where there is only one."""
    seeds: tuple[int, ...]
    """Training seeds, pooled; empty where nothing was trained."""
    entries: dict[str, Entry]
    """By the column's label; a metric that was not scored is missing."""
    records: tuple[RunRecord, ...] = ()
    """Of the base: none of its own."""
    effort: Effort | None = None
    """None for the base."""

    @property
    def is_base(self) -> bool:
        return not self.records


@dataclass(frozen=True)
class Comparison:
    """Rows whose numbers may stand in one table."""

    protocol: Protocol
    """What all rows share; the scorers are told by the columns, `evaluators` is empty."""
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    """By base: the base first, then the combinations in the order of their names."""
    notes: tuple[str, ...] = field(default=())
    """What was left out or is odd, a line each."""

    @property
    def records(self) -> list[RunRecord]:
        """All that it is made of, by id."""
        found = {record.id: record for row in self.rows for record in row.records}
        return [found[name] for name in sorted(found)]
