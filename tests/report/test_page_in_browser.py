"""The page in a real browser: loads from a file, fits a desk and a phone, filters, sorts, and is steered by keys.

Skipped without Playwright (a package) and a Chromium (the system's, or `playwright install chromium`).
"""

import shutil

import pytest
from made_gallery import HOSTILE, SCORES, keep_base, run

from lpobench.records.compare import comparisons
from lpobench.report.columns import of_comparison
from lpobench.report.line_chart import Chart, Line
from lpobench.report.page import Figure, page
from lpobench.report.tables import Document, Section

playwright = pytest.importorskip("playwright.sync_api")

SIZES = {"desk": (1280, 900), "phone": (390, 844)}
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
PROMPTS = {  # in the order of the page: tasks take turns
    "p0": ("a red circle", "colors"),
    "p1": (HOSTILE, "counting"),
    "p2": ("two stars " + "and a long, long prompt " * 30, "colors"),
}
TEXTS = [text for text, _ in PROMPTS.values()]


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        try:
            found = next(filter(None, map(shutil.which, NAMES)), None)
            started = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        except playwright.Error as error:
            pytest.skip(f"no Chromium: {str(error).splitlines()[0]}")
        yield started
        started.close()


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A page with a wide table, a figure and a gallery of three columns."""
    folder = tmp_path_factory.mktemp("page")
    keep_base(folder, PROMPTS, side=64)
    records = [run(folder, method, prompts=PROMPTS, side=64) for method in ("lpo", "sft")]
    chart = Chart("Accuracy", "t", "share", ["1", "50"], [Line("lrm", [0.6, 0.7], [0.01, 0.02])])
    svg = chart.save(folder, "chart")[1].read_text()
    table = Section(
        ["metric", *(f"a column of numbers {n}" for n in range(12))], [["correct", *["0.5000"] * 12]]
    )
    documents = [Document("Comparison", [table], ["x" * 300])]
    made = page(
        "Results", ["one line"], documents, [Figure("Accuracy", svg)], of_comparison(comparisons(records)[0])
    )
    file = folder / "report.html"
    file.write_text(made.html, encoding="utf-8", newline="\n")
    return file


@pytest.fixture(params=SIZES)
def view(request, browser, path):
    """The page at one size; nothing may be said on its console, and nothing asked of the network."""
    width, height = SIZES[request.param]
    context = browser.new_context(viewport={"width": width, "height": height})
    tab, heard = context.new_page(), []
    tab.on("console", lambda message: heard.append(message.text))
    tab.on("pageerror", lambda error: heard.append(str(error)))
    tab.on("dialog", lambda dialog: heard.append(dialog.message))
    tab.on("request", lambda asked: asked.url.startswith(("file:", "data:")) or heard.append(asked.url))
    tab.goto(path.as_uri())
    yield tab
    assert heard == []
    context.close()


def visible(tab) -> list[str]:
    """Prompts, in order."""
    return [p.inner_text() for p in tab.query_selector_all(".row:not([hidden]) .prompt p:not(.task)")]


def focused(tab) -> tuple[str, str]:
    """Prompt and column of the tile that has the focus."""
    return tuple(
        tab.evaluate(
            """() => { const tile = document.activeElement.closest(".tile");
            return [tile.closest(".row").querySelector(".prompt p").textContent, tile.dataset.column]; }"""
        )
    )


def test_it_fits_and_every_picture_loads(view):
    assert view.evaluate(OVERFLOW) <= 0
    sizes = view.evaluate("[...document.images].map(image => image.complete && image.naturalWidth)")
    assert sizes == [64] * 9
    assert all(image.bounding_box()["width"] >= 64 for image in view.query_selector_all(".tile img"))
    assert view.query_selector("figure svg").bounding_box()["height"] > 100


def test_prompts_are_text(view):
    assert view.query_selector(".row[data-place='1'] .prompt p").text_content() == HOSTILE
    assert view.query_selector("img[src='x']") is None


def test_filter_by_task(view):
    view.select_option("select[name=task]", "colors")
    assert len(visible(view)) == 2
    assert view.inner_text("output") == "2 prompts"
    view.select_option("select[name=task]", "counting")
    assert view.query_selector(".row:not([hidden])").get_attribute("data-task") == "counting"
    assert view.inner_text("output") == "1 prompt"
    view.select_option("select[name=task]", "")
    assert len(visible(view)) == 3


@pytest.mark.parametrize(("column", "method"), [("1", "lpo"), ("2", "sft")])
def test_sort_by_gain(view, column, method):
    """In correct higher is better; in light, which is twice that, lower."""
    view.select_option("select[name=column]", column)
    gains = [theirs - base for theirs, base in zip(SCORES[method], SCORES["none"], strict=True)]
    best = sorted(range(3), key=lambda place: -gains[place])
    for metric, first in (("0", best), ("1", best[::-1])):
        view.select_option("select[name=metric]", metric)
        for order, expected in (("gain", first), ("loss", first[::-1]), ("given", [0, 1, 2])):
            view.select_option("select[name=order]", order)
            assert [
                int(row.get_attribute("data-place")) for row in view.query_selector_all(".row")
            ] == expected


def test_columns_can_be_hidden(view):
    view.uncheck("input[name=shown][value='1']")
    assert not view.is_visible(".tile[data-column='1']")
    assert view.is_visible(".tile[data-column='2']")
    assert view.evaluate(OVERFLOW) <= 0


def test_keys_move_and_enlarge(view):
    view.focus(".tile[tabindex='0']")
    assert focused(view) == (TEXTS[0], "0")
    view.keyboard.press("ArrowRight")
    view.keyboard.press("ArrowDown")
    assert focused(view) == (TEXTS[1], "1")
    view.keyboard.press("ArrowLeft")
    view.keyboard.press("ArrowLeft")  # the edge
    assert focused(view) == (TEXTS[1], "0")
    view.keyboard.press("End")
    assert focused(view)[0] == TEXTS[2]
    view.keyboard.press("Home")
    view.keyboard.press("ArrowRight")
    view.keyboard.press("Enter")
    zoom = view.query_selector("#zoom")
    assert zoom.is_visible()
    assert view.inner_text("#zoom-prompt") == TEXTS[0]
    assert [who.inner_text() for who in view.query_selector_all("#zoom .who")] == ["base", "lpo"]
    view.keyboard.press("ArrowDown")
    assert view.text_content("#zoom-prompt") == HOSTILE
    view.click("#zoom [data-move=right]")
    assert [who.inner_text() for who in view.query_selector_all("#zoom .who")] == ["base", "sft"]
    assert view.evaluate("zoom.scrollWidth - zoom.clientWidth") <= 0
    view.keyboard.press("Escape")
    assert not zoom.is_visible()
    assert focused(view) == (TEXTS[1], "2")


def test_dark_and_light(browser, path):
    seen = []
    for scheme in ("light", "dark"):
        tab = browser.new_page(color_scheme=scheme)
        tab.goto(path.as_uri())
        seen.append(tab.evaluate("getComputedStyle(document.body).backgroundColor"))
        tab.close()
    assert seen == ["rgb(255, 255, 255)", "rgb(21, 23, 26)"]


def test_it_is_read_without_its_script(browser, path):
    context = browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto(path.as_uri())
    assert tab.is_visible(".tile img")
    assert not tab.is_visible(".tools")
    context.close()


def test_the_policy_is_enforced(browser, path):
    """A script and a style that are not the page's own do nothing, and nothing is fetched."""
    tab, refused = browser.new_page(), []
    tab.on("console", lambda message: refused.append(message.text))
    tab.goto(path.as_uri())
    tab.evaluate(
        """() => { const add = (tag, values) =>
            document.body.append(Object.assign(document.createElement(tag), values));
            add("script", { textContent: "window.ran = true" });
            add("style", { textContent: "body { color: rgb(1, 2, 3) }" });
            add("img", { src: "http://127.0.0.1:9/x.png" }); }"""
    )
    tab.wait_for_timeout(50)
    assert tab.evaluate("window.ran") is None
    assert tab.evaluate("getComputedStyle(document.body).color") != "rgb(1, 2, 3)"
    assert len(refused) == 3
    assert all("Content Security Policy" in text for text in refused)
    tab.close()
