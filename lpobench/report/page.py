"""One self-contained HTML page: tables, figures and galleries, without a single outside resource.

Its content security policy allows the page's own style sheet and script, by hash, and pictures that it contains; it is
read without the script as well, which only filters, sorts and enlarges. Everything that comes from a record is escaped.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from lpobench.report.columns import Subject
from lpobench.report.gallery import Gallery, galleries
from lpobench.report.inline_svg import inline
from lpobench.report.page_gallery import gallery_html
from lpobench.report.tables import Bold, Document, Section

LIMIT, RESERVED = 25_000_000, 500_000
"""Bytes a page may have, and those of them that are kept for its frame."""
HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
"""
POLICY = (
    "default-src 'none'; img-src data:; style-src 'sha256-{style}'; script-src 'sha256-{script}'; "
    "base-uri 'none'; form-action 'none'"
)
ZOOM = """<dialog id="zoom" aria-labelledby="zoom-prompt">
<p id="zoom-prompt"></p>
<div id="zoom-pair"></div>
<p class="keys"><button type="button" data-move="up" aria-label="previous prompt">&uarr;</button>
<button type="button" data-move="down" aria-label="next prompt">&darr;</button> prompt
<button type="button" data-move="left" aria-label="previous column">&larr;</button>
<button type="button" data-move="right" aria-label="next column">&rarr;</button> column
<button type="button" data-move="close">close</button></p>
</dialog>
"""


@dataclass(frozen=True)
class Figure:
    """A chart as the text of an SVG file."""

    title: str
    svg: str
    note: str = ""


@dataclass(frozen=True)
class Page:
    """The text of an HTML file, and what it leaves out, a line each."""

    html: str
    left_out: tuple[str, ...]


def page(
    title: str,
    lines: Sequence[str],
    documents: Sequence[Document],
    figures: Sequence[Figure] = (),
    subjects: Sequence[Subject] = (),
) -> Page:
    """The whole page. `lines` say what it is; `subjects` get a gallery each, as large as there is room for.

    Raises ValueError for a figure that is no SVG, UserError and MissingAsset where scores cannot be read.
    """
    style, script = _asset("page.css"), _asset("page.js")
    tables = "".join(_document(document, number) for number, document in enumerate(documents, 1))
    text = tables + _figures(figures)
    found = galleries(subjects, LIMIT - RESERVED - len(text.encode()))
    shown = [gallery for gallery in found if gallery.rows]
    policy = POLICY.format(style=_sha256(style), script=_sha256(script))
    head = HEAD.format(policy=policy, title=escape(title), style=style)
    top = f"<h1>{escape(title)}</h1>\n{_lines(lines)}{_contents(documents, figures, shown)}"
    pictures = "".join(gallery_html(gallery, number) for number, gallery in enumerate(shown, 1))
    pictures += _without_pictures(found)
    html = (
        f"{head}<header>\n{top}</header>\n<main>\n{text}{pictures}</main>\n"
        f"{ZOOM if shown else ''}<script>{script}</script>\n</body>\n</html>\n"
    )
    left_out = [f"{gallery.title}: {line}" for gallery in found for line in gallery.left_out]
    if (size := len(html.encode())) > LIMIT:
        left_out.append(f"nothing more: the tables and figures alone take {size / 1e6:.1f} MB")
    return Page(html, tuple(left_out))


def _asset(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _sha256(text: str) -> str:
    """As a policy spells it."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _lines(lines: Sequence[str], kind: str = "about") -> str:
    return "".join(f'<p class="{kind}">{escape(line)}</p>\n' for line in lines)


def _contents(documents: Sequence[Document], figures: Sequence[Figure], galleries: Sequence[Gallery]) -> str:
    links = [(f"table-{number}", document.title) for number, document in enumerate(documents, 1)]
    links += [("figures", f"{len(figures)} figures")] if figures else []
    links += [(f"gallery-{n}", f"Pictures: {gallery.title}") for n, gallery in enumerate(galleries, 1)]
    items = "".join(f'<li><a href="#{place}">{escape(name)}</a></li>' for place, name in links)
    return f'<nav aria-label="contents"><ul>{items}</ul></nav>\n' if len(links) > 1 else ""


def _document(document: Document, number: int) -> str:
    tables = "".join(map(table, document.sections))
    head = f"<h2>{escape(document.title)}</h2>\n{_lines(document.header)}"
    foot = f'<div class="foot">{_lines(document.footer, "note")}</div>' if document.footer else ""
    return f'<section id="table-{number}">\n{head}{tables}{foot}\n</section>\n'


def table(section: Section) -> str:
    """A table that scrolls in a box of its own where it is wider than the page."""
    rows = [_cells(section, "th", ' scope="col"', section.headers)]
    before = None
    for row in section.rows:
        begins = section.labels > 1 and before not in (None, row[0])
        rows.append(_cells(section, "td", "", row, ' class="group"' if begins else ""))
        before = row[0]
    name = escape(section.title or section.headers[0])
    caption = f"<h3>{escape(section.title)}</h3>\n" if section.title else ""
    return (
        f'{caption}<div class="wide" role="region" aria-label="{name}" tabindex="0"><table>\n'
        f"<thead>{rows[0]}</thead>\n<tbody>\n{''.join(rows[1:])}</tbody>\n</table></div>\n"
        f"{_lines([section.note], 'note') if section.note else ''}"
    )


def _cells(section: Section, tag: str, scope: str, texts: Sequence[str], kind: str = "") -> str:
    cells = []
    for place, text in enumerate(texts):
        label = ' class="label"' if place < section.labels else ""
        inner = escape(text.replace(", ", ",\N{NO-BREAK SPACE}")) if place >= section.labels else escape(text)
        inner = f"<b>{inner}</b>" if isinstance(text, Bold) else inner
        cells.append(f"<{tag}{scope}{label}>{inner}</{tag}>")
    return f"<tr{kind}>{''.join(cells)}</tr>\n"


def _without_pictures(galleries: Sequence[Gallery]) -> str:
    lines = [f"{gallery.title}: {'; '.join(gallery.left_out)}" for gallery in galleries if not gallery.rows]
    return f'<section id="left-out">\n<h2>Without pictures</h2>\n{_lines(lines)}</section>\n' if lines else ""


def _figures(figures: Sequence[Figure]) -> str:
    if not figures:
        return ""
    drawn = "".join(
        f'<figure><div class="wide" role="region" aria-label="{escape(figure.title)}" tabindex="0">'
        f"{inline(figure.svg, number, figure.title)}</div>\n"
        f"<figcaption>Figure {number}. {escape(figure.title)}{': ' if figure.note else ''}{escape(figure.note)}"
        "</figcaption></figure>\n"
        for number, figure in enumerate(figures, 1)
    )
    return f'<section id="figures">\n<h2>Figures</h2>\n<div class="figures">\n{drawn}</div>\n</section>\n'
