"""What all charts share: colors that colour-blind readers tell apart, small multiples, and files whose bytes are equal
for the same chart.
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's; markers differ as well."""
MARKERS = "os^Dvx"
"""As many: past the last color each has another marker than before."""
LETTERS = 11
"""Of a title that fit into an inch."""
PANEL, ACROSS = (3.6, 2.8), 3
"""Size of a panel in inches, and how many stand side by side."""


def look(number: int) -> dict[str, str]:
    """Of a line or of points: color and marker, no pair of them twice in 36; past the last color another dash."""
    turn = number // len(COLORS)
    dash = ("-", "--", ":")[turn % 3]
    return {
        "color": COLORS[number % len(COLORS)],
        "marker": MARKERS[(number + turn) % len(MARKERS)],
        "linestyle": dash,
    }


def panels(num: int, title: str, note: str = "") -> tuple[Figure, list[Axes]]:
    """A figure of `num` panels, with a title above and small print below."""
    from matplotlib.figure import Figure

    across = 2 if num in (2, 4) else min(num, ACROSS)
    down = -(-num // across)
    wide = max(across * PANEL[0], 5.4)
    figure = Figure((wide, down * PANEL[1] + 0.7), layout="constrained")
    axes = list(figure.subplots(down, across, squeeze=False).flat)
    for spare in axes[num:]:
        spare.set_axis_off()
    figure.suptitle(fill(title, int(LETTERS * wide)), x=0.01, ha="left", fontsize=11)
    if note:
        figure.supxlabel(note, fontsize=7, x=0.99, ha="right", color="0.4")
    return figure, axes[:num]


def tidy(axes: Axes, title: str = "") -> None:
    """Faint horizontal lines, no box."""
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    if title:
        axes.set_title(title, loc="left", fontsize=9)


def legend(figure: Figure, axes: Axes) -> None:
    """One for all panels, below them."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        columns = max(1, min(len(labels), int(100 * figure.get_figwidth() / 8 / (max(map(len, labels)) + 6))))
        figure.legend(handles, labels, loc="outside lower left", ncols=columns, frameon=False, fontsize=8)


def rendered(figure: Figure, name: str, kind: Literal["png", "svg"]) -> bytes:
    """The file of a chart; `name` makes its inner names, so that the same chart gives the same bytes."""
    import matplotlib

    none = {"Software": None} if kind == "png" else {"Date": None, "Creator": None}
    file = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        figure.savefig(file, format=kind, dpi=DPI, metadata=none)
    return file.getvalue()


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write `name`.png and `name`.svg, the same picture."""
    paths = []
    for kind in ("png", "svg"):
        paths.append(folder / f"{name}.{kind}")
        paths[-1].write_bytes(rendered(figure, name, kind))
    return paths


def file_name(name: str) -> str:
    """Without its ending, for a chart of this name."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-").lower()
