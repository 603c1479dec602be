"""The comparison of many runs as tables: scores, what seeds do to them, win rates, costs; and what must be read with
them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

from lpobench.records.comparison import Column, Comparison, Entry
from lpobench.records.record import Group, Protocol, RunRecord
from lpobench.report.labels import Labels
from lpobench.report.tables import Bold, Document, Section, decimals

MOST_RECORDS = 60
"""Record ids that a footer lists; the JSON format has all."""
TRAINED_ON = "†"
MISSING = "n/a"


def comparison_document(
    comparison: Comparison,
    meanings: Mapping[str, str],
    title: str = "Comparison",
    labels: Labels | None = None,
) -> Document:
    """Everything about one comparison. `meanings`: what each protocol is, by its id."""
    labels = labels or Labels.of(comparison)
    sections = [scores(comparison, labels), win_rates(comparison, labels)]
    if any(entry.spread is not None for row in comparison.rows for entry in row.entries.values()):
        sections.insert(1, spreads(comparison, labels))
    sections += [*tasks(comparison, labels), costs(comparison, labels)]
    return Document(title, sections, header(comparison, meanings), footer(comparison))


def scores(comparison: Comparison, labels: Labels) -> Section:
    """Means, with the interval of the difference to the base."""
    confidence = comparison.protocol.confidence
    title = f"Scores: mean [{confidence:.0%} interval of the difference to the base]"
    headers = [headline(column) for column in comparison.columns]
    digits = _digits(comparison)
    rows = {
        place: [_score(row.entries.get(column.label), digits[column.label]) for column in comparison.columns]
        for place, row in enumerate(comparison.rows)
    }
    return labels.section(headers, rows, comparison, title)


def win_rates(comparison: Comparison, labels: Labels) -> Section:
    """Shares of prompts on which a row beats its base."""
    return _by_entry(
        comparison,
        labels,
        "Win rate against the base",
        "share of prompts; a tie counts one half",
        lambda entry, column: MISSING if entry.win_rate is None else f"{entry.win_rate:.1%}",
    )


def spreads(comparison: Comparison, labels: Labels) -> Section:
    """What training seeds do to the mean difference, apart from what prompts do to it."""
    digits = _digits(comparison)

    def cell(entry: Entry, column: Column) -> str:
        spread = MISSING if entry.spread is None else f"{entry.spread:.{digits[column.label]}f}"
        return f"{entry.difference:+.{digits[column.label]}f} ± {spread}"

    title = "Difference to the base, and its spread over training seeds"
    note = "mean ± standard deviation of the runs' own mean differences; the intervals above do not have it in them"
    return _by_entry(comparison, labels, title, note, cell)


def tasks(comparison: Comparison, labels: Labels) -> list[Section]:
    """The yes/no metric by task, where the runs have one; seeds are averaged."""
    checks = dict.fromkeys(record.check for record in comparison.records if record.check)
    sections = []
    for column in comparison.columns:
        if column.metric not in checks:
            continue
        scored = {
            place: [record.groups.get(column.metric, {}) for record in row.records]
            for place, row in enumerate(comparison.rows)
            if column.label in row.entries and not row.is_base
        }
        names = list(dict.fromkeys(task for groups in scored.values() for each in groups for task in each))
        if not names:
            continue
        rows = {place: _by_task(groups, names, "mean_method") for place, groups in scored.items()}
        for place, row in enumerate(comparison.rows):
            if row.is_base and (theirs := [p for p in scored if comparison.rows[p].backbone == row.backbone]):
                rows[place] = _by_task(scored[theirs[0]][:1], names, "mean_base")
        rows = dict(sorted(rows.items()))
        sections.append(labels.section(names, rows, comparison, f"{headline(column)} by task"))
    return sections


def costs(comparison: Comparison, labels: Labels) -> Section:
    """What a run of each row took: means over its runs."""
    rows, devices = {}, dict[str, None]()
    for place, row in enumerate(comparison.rows):
        effort = row.effort
        if effort is None:
            continue
        devices |= dict.fromkeys(effort.devices)
        reward = "" if effort.reward_seconds is None else duration(effort.reward_seconds)
        counts = [f"{count:,.0f}" for count in (effort.calls, effort.rows, effort.decodes)]
        times = [duration(effort.seconds), reward, duration(effort.evaluation_seconds)]
        rows[place] = [*counts, *times, f"{effort.peak_memory_bytes / 2**30:.2f} GiB"]
    headers = ["denoiser calls", "latents denoised", "VAE decodes", "training", "reward training"]
    note = (
        "calls, latents and decodes of training; reward training is paid once by all runs that share the model; "
        f"images that were there already cost nothing; on {'; '.join(devices) or 'nothing'}"
    )
    if len(devices) > 1:
        note += ": compare no times between devices"
    return labels.section([*headers, "evaluation", "peak memory"], rows, comparison, "Costs of a run", note)


def header(comparison: Comparison, meanings: Mapping[str, str]) -> list[str]:
    """What is compared."""
    protocol = comparison.protocol
    meaning = meanings.get(protocol.protocol)
    return [f"protocol {protocol.protocol}{f': {meaning}' if meaning else ''}", conditions(protocol)]


def conditions(protocol: Protocol) -> str:
    """How images were made, in a line."""
    images = "image" if protocol.images_per_prompt == 1 else "images"
    texts = "" if protocol.num_texts == protocol.num_prompts else f" ({protocol.num_texts} texts)"
    return (
        f"{protocol.num_prompts} {protocol.source} prompts{texts} x {protocol.images_per_prompt} {images}, "
        f"deterministic sampling (eta 0), {protocol.num_steps} steps, guidance {protocol.guidance_scale:g}, "
        f"noise seed {protocol.seed}"
    )


def footer(comparison: Comparison) -> list[str]:
    """How to read the tables, and what they are made of."""
    protocol = comparison.protocol
    versions = ", ".join(dict.fromkeys(f"{column.scorer} {column.version}" for column in comparison.columns))
    lines = [
        f"a cell: mean over prompts [{protocol.confidence:.0%} interval of the paired difference to the base: same "
        f"prompts, same noise; bootstrap over prompt texts, {protocol.bootstrap_samples:,} draws]; training seeds are "
        "averaged per prompt",
        "bold: best of its backbone, where the interval of the difference to the runner-up excludes 0 (not corrected "
        "for the number of rows)",
        f"scored by {versions or 'nobody'}",
        *sources(comparison.records),
    ]
    if any(entry.trained_on for row in comparison.rows for entry in row.entries.values()):
        lines.insert(
            2,
            f"{TRAINED_ON} the run's own reward: says how well it was followed, not how good the images are",
        )
    cut = [record for record in comparison.records if record.limit is not None]
    lines += [f"{len(cut)} records cut short by --limit: for trying things, not a result"] if cut else []
    return [*lines, *comparison.notes, *_listed(comparison.records)]


def sources(records: Sequence[RunRecord]) -> list[str]:
    """Revisions and packages behind some records."""
    commits = {
        "no git revision recorded"
        if record.git is None
        else f"{record.git.commit[:10]}{' with uncommitted changes' if record.git.dirty else ''}"
        for record in records
    }
    packages: dict[str, set[str]] = {}
    for record in records:
        for name, version in record.versions.items():
            packages.setdefault(name, set()).add(version)
    told = ", ".join(f"{name} {' or '.join(sorted(found))}" for name, found in packages.items())
    return [f"code: {', '.join(sorted(commits))}; {told}"] if records else []


def headline(column: Column) -> str:
    return column.label if column.higher_is_better else f"{column.label} (lower is better)"


def duration(seconds: float) -> str:
    """To three digits or so: 4.2 s, 12.3 min, 5.1 h."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _score(entry: Entry | None, digits: int) -> str:
    if entry is None:
        return MISSING
    text = f"{entry.mean:.{digits}f}"
    if entry.difference is not None:
        ends = (entry.low, entry.high)
        text += " [n/a]" if None in ends else f" [{entry.low:+.{digits}f}, {entry.high:+.{digits}f}]"
    text += f" {TRAINED_ON}" if entry.trained_on else ""
    return Bold(text) if entry.best else text


def _by_entry(
    comparison: Comparison, labels: Labels, title: str, note: str, cell: Callable[[Entry, Column], str]
) -> Section:
    """A table of all rows but the bases."""
    rows = {
        place: [
            cell(row.entries[column.label], column) if column.label in row.entries else MISSING
            for column in comparison.columns
        ]
        for place, row in enumerate(comparison.rows)
        if not row.is_base
    }
    return labels.section([headline(column) for column in comparison.columns], rows, comparison, title, note)


def _by_task(groups: Sequence[Mapping[str, Group]], names: Sequence[str], which: str) -> list[str]:
    """Means over runs."""
    means = []
    for name in names:
        found = [getattr(group[name], which) for group in groups if name in group]
        means.append(f"{fmean(found):.{decimals(fmean(found))}f}" if found else MISSING)
    return means


def _digits(comparison: Comparison) -> dict[str, int]:
    """Digits after the point, the same in all of a column."""
    return {
        column.label: decimals(
            *(row.entries[column.label].mean for row in comparison.rows if column.label in row.entries)
        )
        for column in comparison.columns
    }


def _listed(records: Sequence[RunRecord]) -> list[str]:
    names = [record.id for record in records[:MOST_RECORDS]]
    more = len(records) - len(names)
    rest = f" and {more} more: --format json has all" if more else ""
    return [f"{len(records)} record{'s' if len(records) != 1 else ''}: {', '.join(names)}{rest}"]
