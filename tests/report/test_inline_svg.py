"""A figure in a page: no styles, no scripts, ids of its own, colors that follow the page's."""

import re
from xml.etree import ElementTree

import pytest

from lpobench.report.inline_svg import inline
from lpobench.report.line_chart import Chart, Line


def svg(inside: str) -> str:
    return (
        '<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" '
        f'xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 300 150">{inside}</svg>'
    )


def body(inside: str, number: int = 1) -> str:
    return inline(svg(inside), number, "t").partition(">")[2].removesuffix("</svg>")


def test_the_root_has_a_size_and_a_name():
    root = ElementTree.fromstring(inline(svg(""), 1, 'a "<b>"'))
    assert root.attrib == {
        "viewBox": "0 0 300 150",
        "width": "400",  # points are 4/3 pixels
        "fill": "currentColor",
        "stroke-linejoin": "round",
        "stroke-linecap": "butt",
        "role": "img",
        "aria-label": 'a "<b>"',
    }


def test_styles_become_attributes():
    style = "fill: none; stroke: #0072b2; stroke-width: 0.8; font: 10px 'Sans'; color: red; cursor: move"
    assert body(f'<path d="M 0 0\nL 1 1" style="{style}"/>') == (
        '<path d="M 0 0 L 1 1" fill="none" stroke="#0072b2" stroke-width="0.8" font-size="10px"></path>'
    )


def test_greys_are_ink_and_white_is_paper():
    """#cccccc on white is a fifth of black: 1 - 204/255."""
    assert (
        body('<path style="stroke: #cccccc"/>') == '<path stroke="currentColor" stroke-opacity="0.2"></path>'
    )
    assert body('<path style="stroke: #000000; stroke-opacity: 0.5"/>') == (
        '<path stroke="currentColor" stroke-opacity="0.5"></path>'
    )
    assert body('<path style="fill: #ffffff; stroke: #ffffff"/>') == (
        '<path fill="#ffffff" stroke="#ffffff" class="paper-fill paper-stroke"></path>'
    )


def test_ids_that_are_used_are_kept_apart():
    inside = (
        '<g id="axes"><path id="m1"/><use xlink:href="#m1"/><g clip-path="url(#c1)"/><clipPath id="c1"/></g>'
    )
    assert body(inside, 3) == (
        '<g><path id="f3-m1"></path><use href="#f3-m1"></use><g clip-path="url(#f3-c1)"></g>'
        '<clipPath id="f3-c1"></clipPath></g>'
    )


def test_only_shapes_and_text_are_left():
    inside = (
        "<metadata><x/></metadata><style>*{}</style><script>alert(1)</script><foreignObject><p/></foreignObject>"
        '<image href="http://a/b.png"/><a href="javascript:alert(1)"><path/></a>'
        '<g onload="alert(1)"><text x="1">a &lt;b&gt; <tspan>c</tspan> d</text></g><use xlink:href="http://a#b"/>'
    )
    assert body(inside) == '<g><text x="1">a &lt;b&gt; <tspan>c</tspan> d</text></g><use></use>'


@pytest.mark.parametrize("text", ["", "<p>", "<p></p>", '<svg xmlns="http://www.w3.org/2000/svg"/>'])
def test_what_is_no_figure_is_refused(text):
    with pytest.raises(ValueError, match="no SVG"):
        inline(text, 1, "t")


def test_a_chart_keeps_its_lines_and_words(tmp_path):
    line = Line("lrm", [0.6, 0.7], [0.01, 0.02], [0.55, 0.6])
    chart = Chart("Accuracy", "t", "share <of> pairs", ["1", "50"], [line], "note & more")
    drawn = chart.save(tmp_path, "chart")[1].read_text()
    text = inline(drawn, 1, chart.title)
    assert ElementTree.fromstring(text).tag == "svg"
    assert not re.search(r"style=|<style|<metadata|xlink|url\(#(?!f1-)", text)
    for words in ("Accuracy", "share &lt;of&gt; pairs", "note &amp; more", "lrm"):
        assert f">{words}</text>" in text
    references = set(re.findall(r'(?:url\(#|href="#)([^")]+)', text))
    assert references
    assert references <= set(re.findall(r' id="([^"]+)"', text))
