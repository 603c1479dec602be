"""Comparison tables. Metrics are rows, so that a table fits 80 columns however many metrics there are.

Every table is made once as headers and text cells, then shown by rich or written as markdown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import starmap

from rich import box
from rich.console import Group as Stack
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from lpobench.records.record import Cost, Paired, Protocol, RunRecord


class Bold(str):
    """The text of a cell that is set in bold."""


@dataclass(frozen=True)
class Section:
    """Headers and cells. Cells are text; those that are `Bold` stand out in every format that can."""

    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    """A line below."""
    title: str = ""
    """A line above."""
    labels: int = 1
    """How many of the first columns are text; the others are numbers."""


@dataclass(frozen=True)
class Document:
    """Tables that belong together, and what must be read with them."""

    title: str
    sections: Sequence[Section]
    header: Sequence[str] = ()
    """Lines above the tables: what is compared."""
    footer: Sequence[str] = ()
    """Lines below them: how the numbers were made, how to read them, which records they are of."""


def comparison(record: RunRecord) -> Stack:
    """The run against the untouched base: scores, scores by task, costs."""
    return stack(_header(record), _sections(record))


def to_markdown(record: RunRecord) -> str:
    """The same table as markdown."""
    return markdown(_header(record), _sections(record))


def _header(record: RunRecord) -> list[str]:
    reward = f", reward {record.reward}" if record.reward else ""
    trained = " trained by this run" if record.trained_reward else ""
    lines = [f"{record.variant or record.method} on {record.backbone}{reward}{trained}"]
    if record.checkpoint:
        lines += [record.checkpoint.loaded, _protocol(record, "nothing trained")]
    else:
        lines += [*_trained(record), _protocol(record, "1 training seed")]
    if record.limit is not None:
        lines.append(f"cut short by --limit {record.limit}: for trying things, not a result")
    return [*lines, f"record {record.id}"]


def _trained(record: RunRecord) -> list[str]:
    """What was trained; older records do not tell how many numbers those are."""
    num = (record.training or {}).get("parameters")
    if not num:
        return []
    spec = record.spec
    whole = spec["train"].get("parameters") == "all"
    what = "all weights of the denoiser" if whole else f"a LoRA of rank {spec['lora']['rank']}"
    return [f"trained: {what}, {num / 1e6:,.3f} M parameters"]


def _protocol(record: RunRecord, seeds: str) -> str:
    protocol = record.protocol
    versions = ", ".join(f"{name} {version}" for name, version in protocol.evaluators.items())
    images = "image" if protocol.images_per_prompt == 1 else "images"
    texts = "" if protocol.num_texts == protocol.num_prompts else f" ({protocol.num_texts} texts)"
    return (
        f"{protocol.protocol}: "
        f"{protocol.num_prompts} {protocol.source} prompts{texts} x {protocol.images_per_prompt} {images}, "
        f"{protocol.num_steps} steps, guidance {protocol.guidance_scale:g}, noise seed {protocol.seed}; "
        f"scored by {versions}; {seeds}; intervals by bootstrap over prompts"
    )


def _sections(record: RunRecord) -> list[Section]:
    sections = [_scores(record.metrics, record.variant, record.protocol)]
    if record.check and record.groups.get(record.check):
        sections.append(_tasks(record))
    return [*sections, _costs(record)]


def _scores(metrics: dict[str, Paired], method: str | None, protocol: Protocol) -> Section:
    if method is None:
        rows = [[_named(name, m), *_numbers([m.mean_base], m)] for name, m in metrics.items()]
        return Section(["metric", "none"], rows)
    headers = ["metric", "none", method, f"difference [{protocol.confidence:.0%} interval]", "win rate"]
    rows = [
        [_named(name, m), *_numbers([m.mean_base, m.mean_method], m), _difference(m), f"{m.win_rate:.1%}"]
        for name, m in metrics.items()
    ]
    return Section(headers, rows)


def _tasks(record: RunRecord) -> Section:
    """The yes/no metric by task."""
    scale = record.metrics[record.check]
    method = [record.variant] if record.variant else []
    rows = [
        [
            task,
            str(group.num_prompts),
            *_numbers([group.mean_base, group.mean_method][: 1 + len(method)], scale),
        ]
        for task, group in record.groups[record.check].items()
    ]
    return Section([f"{record.check} by task", "prompts", "none", *method], rows)


def _costs(record: RunRecord) -> Section:
    def row(name: str, cost: Cost) -> list[str]:
        if name in record.reused:
            return [name, "reused", "", "", ""]
        return [name, f"{cost.seconds:.1f} s", f"{cost.calls:,}", f"{cost.rows:,}", f"{cost.decodes:,}"]

    costs = record.costs
    total = Cost(**{field: sum(getattr(c, field) for c in costs.values()) for field in Cost.model_fields})
    rows = [*starmap(row, costs.items()), row("all", total)]
    device = record.device if record.processes == 1 else f"each of {record.processes} x {record.device}"
    memory = f"peak memory {record.peak_memory_bytes / 2**30:.2f} GiB on {device}"
    return Section(["phase", "time", "denoiser calls", "latents denoised", "images decoded"], rows, memory)


def _named(name: str, metric: Paired) -> str:
    return name if metric.higher_is_better else f"{name} (lower is better)"


def _difference(metric: Paired) -> str:
    digits = _decimals(metric)
    if metric.low is None or metric.high is None:
        return f"{metric.difference:+.{digits}f} [n/a]"
    return f"{metric.difference:+.{digits}f} [{metric.low:+.{digits}f}, {metric.high:+.{digits}f}]"


def _numbers(values: Sequence[float], metric: Paired) -> list[str]:
    return [f"{value:.{_decimals(metric)}f}" for value in values]


def _decimals(metric: Paired) -> int:
    return decimals(metric.mean_base, metric.mean_method)


def decimals(*values: float) -> int:
    """Digits after the point: a metric near 1 has four, one near 20 three, one near 500 two."""
    size = max(map(abs, values), default=0.0)
    return 4 if size < 10 else 3 if size < 100 else 2


def stack(header: Sequence[str], sections: Sequence[Section]) -> Stack:
    """Lines and tables for the terminal."""
    parts: list[RenderableType] = [Text(line) for line in header]
    for section in sections:
        title, note = ([Text(line)] if line else [] for line in (section.title, section.note))
        parts += [Text(), *title, _table(section), *note]
    return Stack(*parts)


def _table(section: Section) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1))
    for number, header in enumerate(section.headers):
        table.add_column(
            Text(header),
            justify="right" if number >= section.labels else "left",
            no_wrap=number >= section.labels,
            overflow="fold",
        )
    for row in section.rows:
        table.add_row(*(Text(cell, style="bold" if isinstance(cell, Bold) else "") for cell in row))
    return table


def markdown(header: Sequence[str], sections: Sequence[Section]) -> str:
    """The same as markdown."""
    lines = [*(f"{line}  " for line in header)]
    for section in sections:
        sides = ["---"] * section.labels + ["---:"] * (len(section.headers) - section.labels)
        lines += ["", *([f"### {section.title}", ""] if section.title else [])]
        lines += [_pipes(section.headers), _pipes(sides)]
        lines += [*map(_pipes, section.rows), *(["", section.note] if section.note else [])]
    return "\n".join(lines) + "\n"


def document_markdown(document: Document) -> str:
    """A document as markdown."""
    top = [
        f"## {document.title}",
        *(["", *(f"{line}  " for line in document.header)] if document.header else []),
    ]
    bottom = ["", *(f"{line}  " for line in document.footer)] if document.footer else []
    return "\n".join(top) + "\n" + markdown((), document.sections) + "\n".join(bottom) + "\n" * bool(bottom)


def _pipes(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(_marked, cells)) + " |"


def _marked(cell: str) -> str:
    text = cell.replace("|", "\\|")
    return f"**{text}**" if isinstance(cell, Bold) else text
