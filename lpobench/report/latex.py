"""Tables as LaTeX: booktabs, one table environment each, made narrower where it is wider than the text."""

from __future__ import annotations

import re
from collections.abc import Sequence

from lpobench.report.tables import Bold, Document, Section

SPECIAL = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "†": r"\textdagger{}",
    "±": r"$\pm$",
}
HEAD = "% needs \\usepackage{booktabs,graphicx}\n"
FITTED = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"
MINUS = re.compile(r"(?<![\w.-])-(?=\.?\d)")


def document_latex(document: Document) -> str:
    """A table environment for each section; what must be read with them stands under the last."""
    notes = [*document.header, *document.footer]
    tables = [
        table(section, document.title, notes if section is document.sections[-1] else ())
        for section in document.sections
    ]
    return "\n".join(tables)


def table(section: Section, title: str, notes: Sequence[str] = ()) -> str:
    """One section. A rule is drawn where the first column changes, if it groups rows."""
    caption = f"{title}: {section.title}" if section.title else title
    numbers = len(section.headers) - section.labels
    lines = [
        r"\begin{table}[t]",
        r"\centering\small",
        rf"\caption{{{escape(caption)}}}",
        FITTED,
        rf"\begin{{tabular}}{{@{{}}{'l' * section.labels}{'r' * numbers}@{{}}}}",
        r"\toprule",
        _row(section.headers),
        r"\midrule",
    ]
    grouped = 2 * len({row[0] for row in section.rows}) <= len(section.rows)
    for number, row in enumerate(section.rows):
        if grouped and number and section.rows[number - 1][0] != row[0]:
            lines.append(r"\midrule")
        lines.append(_row(row))
    lines += [r"\bottomrule", r"\end{tabular}}"]
    for note in (section.note, *notes):
        lines += [rf"\par\footnotesize {escape(note)}"] if note else []
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def escape(text: str) -> str:
    """Plain text as LaTeX shows it."""
    return MINUS.sub("$-$", "".join(SPECIAL.get(letter, letter) for letter in text))


def _row(cells: Sequence[str]) -> str:
    texts = [rf"\textbf{{{escape(cell)}}}" if isinstance(cell, Bold) else escape(cell) for cell in cells]
    return f"{' & '.join(texts)} \\\\"
