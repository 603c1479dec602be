"""A gallery as HTML: a grid of prompts and columns, with controls that work once the page's script runs."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from lpobench.report.columns import Source
from lpobench.report.gallery import EXACT, Gallery, Row, Tile

LARGE = 10


def gallery_html(gallery: Gallery, number: int) -> str:
    """One section of the page."""
    lines = [*gallery.lines, *gallery.left_out]
    about = "".join(f'<p class="about">{escape(line)}</p>\n' for line in lines)
    head = f'<section id="gallery-{number}" class="gallery">\n<h2>Pictures: {escape(gallery.title)}</h2>\n{about}'
    forms = [_form(gallery, metric) for metric in range(len(gallery.metrics))]
    columns = len(gallery.columns)
    rows = "".join(_row(gallery, row, place, forms) for place, row in enumerate(gallery.rows))
    base = ' data-base="1"' if gallery.has_base else ""
    grid = f'<div class="strip" role="grid" aria-label="pictures" data-columns="{columns}"{base}>\n'
    return f"{head}{_tools(gallery, number)}{grid}{_head(gallery)}{rows}</div>\n</section>\n"


def _tools(gallery: Gallery, number: int) -> str:
    tasks = dict.fromkeys(row.task for row in gallery.rows if row.task)
    counts = {task: sum(row.task == task for row in gallery.rows) for task in tasks}
    everything = _option("", f"all ({len(gallery.rows)})")
    chosen = everything + "".join(_option(task, f"{task} ({counts[task]})") for task in sorted(tasks))
    parts = [_select("task", "task", chosen)] if tasks else []
    if gallery.has_base and len(gallery.columns) > 1:
        orders = {"given": "as evaluated", "gain": "largest gain first", "loss": "largest loss first"}
        parts.append(_select("order", "order", "".join(_option(*order) for order in orders.items())))
        names = "".join(_metric(place, *metric) for place, metric in enumerate(gallery.metrics.items()))
        parts.append(_select("metric", "in", names))
        methods = [source.label for source in gallery.columns[1:]]
        others = "".join(_option(str(place), name) for place, name in enumerate(methods, 1))
        parts.append(_select("column", "of", others))
    if len(gallery.columns) > 2:
        parts.append(_shown(gallery.columns))
    count = f'<output aria-live="polite">{len(gallery.rows)} prompts</output>'
    hint = "arrow keys move, Enter enlarges"
    return f'<form class="tools" hidden>{"".join(parts)}{count}<span class="hint">{hint}</span></form>\n'


def _select(name: str, label: str, options: str) -> str:
    return f'<label>{label} <select name="{name}">{options}</select></label>\n'


def _option(value: str, text: str) -> str:
    return f'<option value="{escape(value)}">{escape(text)}</option>'


def _metric(place: int, name: str, higher_is_better: bool) -> str:
    return f'<option value="{place}" data-sign="{1 if higher_is_better else -1}">{escape(name)}</option>'


def _shown(columns: Sequence[Source]) -> str:
    boxes = "".join(
        f'<label><input type="checkbox" name="shown" value="{place}" checked> {escape(source.label)}</label>\n'
        for place, source in enumerate(columns)
    )
    return f"<fieldset><legend>columns</legend>{boxes}</fieldset>\n"


def _head(gallery: Gallery) -> str:
    names = "".join(
        f'<div role="columnheader" data-column="{place}" title="{escape(source.note)}">{escape(source.label)}</div>'
        for place, source in enumerate(gallery.columns)
    )
    return f'<div class="head" role="row"><div role="columnheader">prompt</div>{names}</div>\n'


def _row(gallery: Gallery, row: Row, place: int, forms: Sequence[str]) -> str:
    names = "".join(f"<span>{escape(name)}{_arrow(up)}</span>" for name, up in gallery.metrics.items())
    task = f'<p class="task">{escape(row.task)}</p>' if row.task else ""
    base = row.tiles[0].scores if gallery.has_base else None
    tiles = "".join(
        _tile(gallery, tile, column, base, forms, row.prompt) for column, tile in enumerate(row.tiles)
    )
    return (
        f'<div class="row" role="row" data-place="{place}" data-task="{escape(row.task)}">'
        f'<div class="prompt" role="rowheader"><div><p>{escape(row.prompt)}</p>{task}</div>'
        f'<div class="names" aria-hidden="true">{names}</div></div>{tiles}</div>\n'
    )


def _arrow(higher_is_better: bool) -> str:
    return "" if higher_is_better else " (lower is better)"


def _tile(
    gallery: Gallery,
    tile: Tile,
    column: int,
    base: tuple[float | None, ...] | None,
    forms: Sequence[str],
    prompt: str,
) -> str:
    label = gallery.columns[column].label
    if tile.picture:
        exact = ' class="exact"' if max(tile.picture.width, tile.picture.height) <= EXACT else ""
        picture = (
            f'<img{exact} src="{tile.picture.address}" width="{tile.picture.width}" height="{tile.picture.height}" '
            f'decoding="async" alt="{escape(label)}: {escape(prompt)}">'
        )
    else:
        picture = '<span class="gone">picture is gone</span>'
    against = base if column else None
    scores = "".join(
        _score(name, up, value, against[place] if against else None, forms[place])
        for place, ((name, up), value) in enumerate(zip(gallery.metrics.items(), tile.scores, strict=True))
    )
    return (
        f'<div class="tile" role="gridcell" tabindex="-1" data-column="{column}">'
        f'<span class="who">{escape(label)}</span>{picture}<dl>{scores}</dl></div>'
    )


def _score(name: str, higher_is_better: bool, value: float | None, base: float | None, form: str) -> str:
    """A value, and beside it its difference to the base's."""
    term = f"<dt>{escape(name)}</dt>"
    if value is None:
        return f"<div>{term}<dd>n/a</dd></div>"
    shown = _written(value, form)
    if base is None or shown == _written(base, form):
        return f'<div>{term}<dd data-value="{value!r}">{shown}</dd></div>'
    kind = "up" if (value > base) == higher_is_better else "down"
    difference = f"<i>{form.replace(':', ':+').format(value - base)}</i>" if form else ""
    return f'<div>{term}<dd data-value="{value!r}" class="{kind}">{shown}{difference}</dd></div>'


def _written(value: float, form: str) -> str:
    return form.format(value) if form else "yes" if value else "no"


def _form(gallery: Gallery, metric: int) -> str:
    """How a metric's values are written; "" for yes and no."""
    values = [tile.scores[metric] for row in gallery.rows for tile in row.tiles]
    found = [value for value in values if value is not None]
    if found and set(found) <= {0.0, 1.0}:
        return ""
    size = max(map(abs, found), default=0.0)
    return "{:.3f}" if size < LARGE else "{:.2f}" if size < LARGE**2 else "{:.1f}"
