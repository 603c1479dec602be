"""Tables of evaluations: a column per model, all under one protocol."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group as Stack

from lpobench.records.evaluation import EvalRecord, Mean, check_comparable
from lpobench.report.tables import Document, Section, decimals, markdown, stack


def evaluations(records: Sequence[EvalRecord]) -> Stack:
    """For the terminal. Raises UserError for records whose numbers are not comparable."""
    return stack(_header(records), _sections(records))


def document(records: Sequence[EvalRecord]) -> Document:
    """The same as part of a report."""
    return Document(f"Evaluations under {records[0].protocol.protocol}", _sections(records), _header(records))


def to_markdown(records: Sequence[EvalRecord]) -> str:
    """The same as markdown."""
    return markdown(_header(records), _sections(records))


def _header(records: Sequence[EvalRecord]) -> list[str]:
    check_comparable(records)
    first = records[0]
    protocol = first.protocol
    versions = {name: version for record in records for name, version in record.protocol.evaluators.items()}
    images = "image" if protocol.images_per_prompt == 1 else "images"
    texts = "" if protocol.num_texts == protocol.num_prompts else f" ({protocol.num_texts} texts)"
    guidance = ", ".join(dict.fromkeys(f"{record.protocol.guidance_scale:g}" for record in records))
    lines = [
        f"protocol {protocol.protocol}: {first.means}",
        f"{protocol.num_prompts} {protocol.source} prompts{texts} x {protocol.images_per_prompt} {images}, "
        f"{protocol.num_steps} steps, guidance {guidance}, noise seed {protocol.seed}; scored by "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
        + f"; {protocol.confidence:.0%} intervals by bootstrap over prompts",
    ]
    if first.limits:
        lines.append(f"not exactly the original: {first.limits}")
    if first.cut:
        lines.append("fewer prompts than the protocol has: for trying things, not a result")
    return [*lines, *(f"record {record.id}" for record in records)]


def _sections(records: Sequence[EvalRecord]) -> list[Section]:
    names = list(dict.fromkeys(name for record in records for name in record.metrics))
    headers = ["metric", *(record.column for record in records)]
    rows = [
        [_label(name, records), *(_cell(record.metrics.get(name)) for record in records)] for name in names
    ]
    sections = [Section(headers, rows)]
    shown = dict.fromkeys(name for record in records for name in record.shown if record.tasks.get(name))
    sections += [_tasks(name, records) for name in shown]
    sections += [_suite(name, records) for name in dict.fromkeys(n for r in records for n in r.suites)]
    return [*sections, *(section for record in records if (section := _differences(record)))]


def _label(name: str, records: Sequence[EvalRecord]) -> str:
    mean = next(record.metrics[name] for record in records if name in record.metrics)
    return name if mean.higher_is_better else f"{name} (lower is better)"


def _cell(mean: Mean | None) -> str:
    if mean is None:
        return "n/a"
    digits = decimals(mean.mean)
    if mean.low is None or mean.high is None:
        return f"{mean.mean:.{digits}f} [n/a]"
    return f"{mean.mean:.{digits}f} [{mean.low:.{digits}f}, {mean.high:.{digits}f}]"


def _tasks(name: str, records: Sequence[EvalRecord]) -> Section:
    tasks = dict.fromkeys(task for record in records for task in record.tasks.get(name, {}))
    rows = []
    for task in tasks:
        found = [record.tasks.get(name, {}).get(task) for record in records]
        count = next(mean.num_prompts for mean in found if mean)
        cells = ["n/a" if mean is None else f"{mean.mean:.{decimals(mean.mean)}f}" for mean in found]
        rows.append([task, str(count), *cells])
    return Section([f"{name} by task", "prompts", *(record.column for record in records)], rows)


def _suite(name: str, records: Sequence[EvalRecord]) -> Section:
    numbers = dict.fromkeys(number for record in records for number in record.suites.get(name, {}))
    rows = []
    for number in numbers:
        found = [record.suites.get(name, {}).get(number) for record in records]
        rows.append([number, *("n/a" if value is None else f"{value:.4f}" for value in found)])
    return Section([f"{name}, the whole suite", *(record.column for record in records)], rows)


def _differences(record: EvalRecord) -> Section | None:
    if not record.differences:
        return None
    rows = [[name, f"{gap.mean:+.3g}", f"{gap.largest:.3g}"] for name, gap in record.differences.items()]
    return Section([f"official code minus ours, {record.column}", "mean", "largest"], rows)
