"""A figure's SVG file as an element of a page: nothing but shapes and text, colors that follow the page's own.

Styles become attributes, which a page without inline styles may have; ids are made unique; greys are mixed of the
page's ink, so that a figure drawn on white reads on black as well.
"""

from __future__ import annotations

import re
from html import escape
from xml.etree import ElementTree

SHAPES = {"svg", "g", "defs", "path", "use", "rect", "circle", "line", "polyline", "polygon", "clipPath"}
TEXTS = {"text", "tspan"}
GEOMETRY = {"d", "x", "y", "x1", "y1", "x2", "y2", "r", "cx", "cy", "rx", "ry", "width", "height", "points"}
LOOK = {"fill", "stroke", "opacity", "fill-opacity", "fill-rule", "clip-path", "clip-rule", "transform"}
LOOK |= {f"stroke-{name}" for name in ("width", "opacity", "linecap", "linejoin", "dasharray", "dashoffset")}
LOOK |= {"font-size", "font-style", "font-weight", "text-anchor", "dominant-baseline"}
ROOT = {"fill": "currentColor", "stroke-linejoin": "round", "stroke-linecap": "butt", "role": "img"}
"""What every figure starts from; matplotlib says the line's ends in a style sheet."""
WHITE = 0xFF


def inline(svg: str, number: int, title: str) -> str:
    """The figure as an <svg> element; `number` tells its ids from those of the page's other figures.

    Raises ValueError for what is no SVG.
    """
    try:
        root = ElementTree.fromstring(svg)
    except ElementTree.ParseError as reason:
        raise ValueError(f"no SVG: {reason}") from None
    if _local(root.tag) != "svg":
        raise ValueError(f"no SVG: its root is {_local(root.tag)}")
    used = set(re.findall(r"(?:url\(|href=[\"'])#([^\"')]+)", svg))
    parts: list[str] = []
    _write(root, f"f{number}-", used, parts)
    width, height = _size(root)
    attributes = {"viewBox": f"0 0 {width:g} {height:g}", "width": f"{width * 4 / 3:.0f}", **ROOT}
    return f"<svg{_attributes(attributes | {'aria-label': title})}>{''.join(parts)}</svg>"


def _size(root: ElementTree.Element) -> tuple[float, float]:
    """In points."""
    numbers = root.get("viewBox", "").split()
    if len(numbers) != 4:
        raise ValueError("no SVG of known size: it has no viewBox")
    return float(numbers[2]), float(numbers[3])


def _write(element: ElementTree.Element, prefix: str, used: set[str], parts: list[str]) -> None:
    """What is inside an element."""
    for child in element:
        name = _local(child.tag)
        if name not in SHAPES | TEXTS:
            continue
        parts.append(f"<{name}{_attributes(_kept(child, prefix, used))}>")
        if name in TEXTS:
            parts.append(escape(child.text or ""))
        _write(child, prefix, used, parts)
        parts.append(f"</{name}>")
        if name == "tspan":
            parts.append(escape(child.tail or ""))


def _kept(element: ElementTree.Element, prefix: str, used: set[str]) -> dict[str, str]:
    given = {_local(name): value for name, value in element.attrib.items()}
    look = {**given, **_declarations(given.get("style", ""))}
    kept = {name: " ".join(look[name].split()) for name in look if name in GEOMETRY | LOOK}
    for name, value in kept.items():
        kept[name] = re.sub(r"url\(#(.+?)\)", rf"url(#{prefix}\1)", value)
    for part in ("fill", "stroke"):
        _recolor(kept, part)
    if given.get("id") in used:
        kept["id"] = prefix + given["id"]
    if given.get("href", "").startswith("#"):
        kept["href"] = f"#{prefix}{given['href'][1:]}"
    return kept


def _declarations(style: str) -> dict[str, str]:
    """`a: b; c: d`; of `font`, the size."""
    found = dict(part.split(":", 1) for part in style.split(";") if ":" in part)
    found = {name.strip(): value.strip() for name, value in found.items()}
    if size := re.search(r"[\d.]+px", found.get("font", "")):
        found["font-size"] = size.group()
    return found


def _recolor(look: dict[str, str], part: str) -> None:
    """White is the page's paper; other greys are its ink, as much of it as gives that grey on white."""
    if not (found := re.fullmatch(r"#([0-9a-fA-F]{2})\1\1", look.get(part, ""))):
        return
    level = int(found.group(1), 16)
    if level == WHITE:
        look["class"] = f"{look['class']} paper-{part}" if "class" in look else f"paper-{part}"
        return
    opacity = float(look.get(f"{part}-opacity", 1)) * (1 - level / WHITE)
    look |= {part: "currentColor", f"{part}-opacity": f"{opacity:.3g}"}


def _attributes(values: dict[str, str]) -> str:
    return "".join(f' {name}="{escape(value)}"' for name, value in values.items())


def _local(name: str) -> str:
    return name.rsplit("}", 1)[-1]
