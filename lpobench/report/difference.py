"""What is different between two runs: settings, environment, protocol, scores on the same noise, and curves."""

from __future__ import annotations

import math
from collections.abc import Mapping

from lpobench.plugin import UserError
from lpobench.records.bootstrap import intervals
from lpobench.records.curves import compare_curves, read_curves
from lpobench.records.families import conditions
from lpobench.records.prompt_scores import PromptScores, ScoreReader
from lpobench.records.record import RunRecord
from lpobench.records.settings import flat
from lpobench.report.comparison import duration
from lpobench.report.tables import Document, Section, decimals

SAME = "the same"
MISSING = "-"


def difference(a: RunRecord, b: RunRecord) -> Document:
    """Of two finished runs; what they share is not shown."""
    sections = [
        _unequal("settings", flat(a.spec), flat(b.spec)),
        _unequal("environment", environment(a), environment(b)),
        _unequal("protocol", flat(a.protocol.model_dump()), flat(b.protocol.model_dump())),
        _scores(a, b),
        _curves(a, b),
        _unequal("phase", _phases(a), _phases(b)),
    ]
    same = [section.headers[0] for section in sections if section is not None and not section.rows]
    shown = [section for section in sections if section is not None and section.rows]
    footer = [f"{SAME}: {', '.join(same)}"] if same else []
    return Document(f"{a.id} (a) and {b.id} (b)", shown, (), footer)


def environment(record: RunRecord) -> dict[str, str]:
    """Everything outside the settings that may move a number."""
    git = record.git
    return {
        **record.versions,
        "git": "none" if git is None else f"{git.commit[:10]}{' with changes' if git.dirty else ''}",
        "device": record.device,
        "processes": str(record.processes),
        "base": record.base,
        "trained reward": record.trained_reward or "none",
        "checkpoint": record.checkpoint.sha256 if record.checkpoint else "none",
        "limit": str(record.limit),
        "images at a time": str(record.image_batch),
    }


def _unequal(what: str, a: Mapping[str, str], b: Mapping[str, str]) -> Section:
    paths = [path for path in dict.fromkeys([*a, *b]) if a.get(path) != b.get(path)]
    rows = [[path, a.get(path, MISSING), b.get(path, MISSING)] for path in paths]
    return Section([what, "a", "b"], rows, labels=3)


def _scores(a: RunRecord, b: RunRecord) -> Section:
    """Of every metric that both have by one scorer version."""
    shared = [name for name in a.metrics if name in b.metrics and a.version_of(name) == b.version_of(name)]
    paired, note = _paired(a, b)
    rows = []
    for name in shared:
        means = a.metrics[name].mean_method, b.metrics[name].mean_method
        digits = decimals(*means)
        rows.append([name, *(f"{mean:.{digits}f}" for mean in means), paired(name, digits)])
    confidence = f"{a.protocol.confidence:.0%}"
    return Section(["metric", "a", "b", f"b - a [{confidence} interval]"], rows, note)


def _paired(a: RunRecord, b: RunRecord):
    """How to tell a metric's paired difference, and a note where it cannot be told."""
    if conditions(a.protocol) != conditions(b.protocol):
        return (lambda name, digits: "n/a"), "of different protocols: these means are not comparable"
    reader = ScoreReader()
    try:
        one, other = reader.read(a), reader.read(b)
    except UserError as error:
        return (lambda name, digits: "n/a"), str(error)
    if one.ids != other.ids:
        return (lambda name, digits: "n/a"), "of different prompts"

    def told(name: str, digits: int) -> str:
        change = _column(other, name) - _column(one, name)
        settings = a.protocol
        low, high = intervals(
            change[:, None], one.texts, settings.confidence, settings.bootstrap_samples, settings.seed
        )
        ends = "n/a" if low is None else f"{low[0]:+.{digits}f}, {high[0]:+.{digits}f}"
        return f"{change.mean():+.{digits}f} [{ends}]"

    return told, "same prompts, same noise"


def _column(scores: PromptScores, metric: str):
    return scores.method[:, scores.metrics.index(metric)]


def _curves(a: RunRecord, b: RunRecord) -> Section | None:
    """Where what they logged parts; None where one of them logged nothing."""
    assert a.folder is not None
    assert b.folder is not None
    try:
        found = compare_curves(read_curves(a.folder), read_curves(b.folder))
    except UserError:
        return None
    rows = [
        [c.key, str(c.num), str(c.first), _number(c.largest), *map(_number, c.last)]
        for c in found
        if c.first is not None
    ]
    return Section(["curve", "updates", "differs from", "largest difference", "last a", "last b"], rows)


def _phases(record: RunRecord) -> dict[str, str]:
    return {name: duration(cost.seconds) for name, cost in record.costs.items()}


def _number(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "not finite"
