"""The page is whole in itself: nothing from outside, nothing of a record that a browser would run."""

import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest
from made_gallery import HOSTILE, keep_base, many, png, run

from lpobench.records.compare import comparisons
from lpobench.report import page as module
from lpobench.report.columns import of_comparison
from lpobench.report.page import Figure, page, table
from lpobench.report.tables import Bold, Document, Section

VOID = {"meta", "img", "input", "br"}
SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 10 10"><path style="fill: #ff0000"/></svg>'


class Elements(HTMLParser):
    """Every element with its attributes; an element that is not closed is an error."""

    def __init__(self, html: str):
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self._open: list[str] = []
        self.feed(html)
        assert self._open == []

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.texts.append((self._open[-1] if self._open else "", data))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]

    def text(self, tag: str) -> list[str]:
        return [text for name, text in self.texts if name == tag]


@pytest.fixture
def subjects(tmp_path):
    keep_base(tmp_path)
    return of_comparison(comparisons([run(tmp_path), run(tmp_path, "sft")])[0])


@pytest.fixture
def html(subjects):
    rows = [["tiny", "none", "1.0"], ["tiny", HOSTILE, Bold("2.0 [+0.5, +1.5]")], ["large", "none", "3.0"]]
    section = Section(["backbone", "method", HOSTILE], rows, HOSTILE, HOSTILE, labels=2)
    document = Document(HOSTILE, [section], [HOSTILE], [HOSTILE])
    return page(HOSTILE, [HOSTILE], [document], [Figure(HOSTILE, SVG, HOSTILE)], subjects).html


def test_only_the_pages_own_style_and_script_are_allowed(html):
    """The hashes are taken here as a browser takes them: of the text between the tags."""
    elements = Elements(html)
    policy = next(m["content"] for m in elements.all("meta") if m.get("http-equiv"))
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    for tag, rule in (("style", "style-src"), ("script", "script-src")):
        (text,) = elements.text(tag)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules.pop(rule) == f"'sha256-{digest}'"
    assert rules == {
        "default-src": "'none'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    assert html.index("Content-Security-Policy") < html.index("<style>")


def test_nothing_comes_from_outside(html):
    for tag, attributes in Elements(html).found:
        assert tag not in ("link", "iframe", "object", "embed", "base", "a") or attributes["href"].startswith(
            "#"
        )
        for name, value in attributes.items():
            assert not name.startswith("on")
            assert name not in ("style", "srcdoc", "srcset", "action", "formaction", "xlink:href")
            if name in ("src", "href"):
                assert re.match("data:image/(png|webp);base64,[A-Za-z0-9+/=]+$|#", value)
    assert "@import" not in html
    assert "url(" not in html


def test_what_a_record_says_is_text(html):
    elements = Elements(html)
    assert len(elements.all("script")) == 1
    assert not any(attributes.get("src") == "x" for attributes in elements.all("img"))
    for tag in ("h1", "h2", "h3", "th", "td", "figcaption", "p", "a"):
        assert any(HOSTILE in text for text in elements.text(tag)), tag
    assert {f"{name}: {HOSTILE}" for name in ("base", "lpo", "sft")} <= {
        i.get("alt") for i in elements.all("img")
    }


def test_ids_are_unique_and_links_lead_somewhere(html):
    elements = Elements(html)
    ids = [attributes["id"] for _, attributes in elements.found if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [a["href"] for a in elements.all("a")]
    assert links == ["#table-1", "#figures", "#gallery-1"]
    assert {link[1:] for link in links} <= set(ids)


def test_tables_mark_what_is_bold_text_and_a_new_group():
    rows = [["a", "x", "1"], ["a", "y", Bold("2 [1, 3]")], ["b", "x", "3"]]
    text = table(Section(["backbone", "method", "score"], rows, labels=2))
    assert '<th scope="col" class="label">method</th><th scope="col">score</th>' in text
    assert '<td class="label">y</td><td><b>2 [1,\N{NO-BREAK SPACE}3]</b></td>' in text
    assert re.findall(r'<tr( class="group")?><td class="label">(.)', text) == [
        ("", "a"),
        ("", "a"),
        (' class="group"', "b"),
    ]
    assert "group" not in table(Section(["metric", "score"], [["a", "1"], ["b", "2"]]))


def test_scores_stand_beside_their_change(html):
    """In light a lower value is better: lpo's 1.2 against 1.0 is worse, sft's 0.8 better."""
    light = re.findall(
        r'<dt>light</dt><dd data-value="([\d.]+)"(?: class="(\w+)")?>([^<]+)(?:<i>(.*?)</i>)?', html
    )
    assert light[:3] == [
        ("1.0", "", "1.000", ""),
        ("1.2", "down", "1.200", "+0.200"),
        ("0.8", "up", "0.800", "-0.200"),
    ]


def test_a_yes_or_no_is_written_as_such(tmp_path):
    keep_base(tmp_path)
    record = run(tmp_path)
    scores = (record.folder / "scores.csv").read_text().replace(",0.5,", ",0,").replace(",0.6,", ",1,")
    scores = re.sub(r",0\.(4|55),", ",0,", scores)
    (record.folder / "scores.csv").write_text(scores)
    text = page("t", (), (), (), of_comparison(comparisons([record])[0])).html
    assert '<dt>correct</dt><dd data-value="0.0">no</dd>' in text
    assert '<dt>correct</dt><dd data-value="1.0" class="up">yes</dd>' in text


def test_the_same_records_give_the_same_page(subjects, html):
    assert page("t", (), (), (), subjects) == page("t", (), (), (), subjects)


def test_pictures_that_are_gone_are_said_without_a_gallery(tmp_path):
    record = run(tmp_path)
    for path in (record.folder / "evaluation" / "manifest").iterdir():
        path.unlink()
    (record.folder / "evaluation" / "manifest").rmdir()
    made = page("t", (), (), (), of_comparison(comparisons([record])[0]))
    assert made.left_out == ("tiny-sd15: pictures are gone of base, lpo",)
    elements = Elements(made.html)
    assert made.left_out[0] in elements.text("p")
    assert not elements.all("dialog")
    assert not elements.all("nav")


def test_a_page_keeps_below_its_limit_and_says_what_is_missing(tmp_path, monkeypatch):
    prompts = many(40)
    keep_base(tmp_path, prompts, side=64)
    of = of_comparison(comparisons([run(tmp_path, prompts=prompts, side=64)])[0])
    monkeypatch.setattr(module, "LIMIT", 1_000_000)
    made = page("t", (), (), (), of)
    assert 400_000 < len(made.html.encode()) < 1_000_000
    assert re.fullmatch(r"tiny-sd15: \d+ more would not fit: a page stays below 25 MB", made.left_out[-1])
    monkeypatch.setattr(module, "LIMIT", 10_000)
    assert "the tables and figures alone take" in page("t", (), (), (), of).left_out[-1]
    assert len(png(0, 64)) > 10_000
