"""The paper's numbers: all of them in one table each, and none that the package does not list."""

import re

import pytest

from lpobench.plugin import UserError
from lpobench.records.published import TITLES, numbers_of, published, units
from lpobench.report.latex import document_latex
from lpobench.report.published import published_document, section, to_csv
from lpobench.report.tables import document_markdown


def cells(table: str) -> set[tuple[str, ...]]:
    """(backbone, method, setting, metric, value) of a table, read back from markdown."""
    lines = [
        line for line in document_markdown(published_document(table)).splitlines() if line.startswith("| ")
    ]
    head, _, *body = [line[2:-2].split(" | ") for line in lines]
    num = section(numbers_of(table)).labels
    found = set()
    for line in body:
        names = dict(zip(head[:num], map(str.strip, line[:num]), strict=True))
        keys = tuple(names.get(key, "") for key in ("backbone", "method", "setting"))
        found |= {
            (*keys, metric, value.strip()) for metric, value in zip(head[num:], line[num:], strict=True)
        }
    return {cell for cell in found if cell[-1]}


def test_every_table_has_a_title_and_every_title_a_table():
    assert {number.table for number in published()} == TITLES.keys()
    assert len(published()) == 692


@pytest.mark.parametrize("table", TITLES)
def test_markdown_has_every_printed_number_once(table):
    numbers = {(n.backbone, n.method, n.setting, n.metric, n.value) for n in numbers_of(table)}
    assert cells(table) == numbers
    assert len(numbers) == len(numbers_of(table))


@pytest.mark.parametrize("table", TITLES)
def test_latex_has_them_too(table):
    text = document_latex(published_document(table))
    assert all(number.value.replace("-", "$-$") in text for number in numbers_of(table))
    assert r"\textbf" not in text


def test_numbers_are_numbers_with_the_digits_they_were_printed_with():
    assert all(re.fullmatch(r"-?\d+(\.\d+)?", number.value) for number in published())
    (base,) = [
        n for n in numbers_of("general") if (n.backbone, n.method, n.metric) == ("sd15", "none", "pickscore")
    ]
    assert (base.value, base.source) == ("20.56", "arXiv:2502.01051")
    totals = {n.method: n.value for n in numbers_of("timing") if n.metric == "total_k4_s"}
    assert totals == {"spm": "0.243", "lrm": "0.039"}


def test_csv_is_the_file_again():
    assert to_csv(["mpcf_counts"]).splitlines() == [
        "source,table,backbone,method,setting,metric,value",
        "arXiv:2502.01051,mpcf_counts,,,mpcf=1,kept_win_lose_pairs,101573",
        "arXiv:2502.01051,mpcf_counts,,,mpcf=2,kept_win_lose_pairs,168539",
        "arXiv:2502.01051,mpcf_counts,,,mpcf=3,kept_win_lose_pairs,201885",
        "arXiv:2502.01051,mpcf_counts,,,all,kept_tie_pairs,8537",
    ]
    assert len(to_csv(list(TITLES)).splitlines()) == 1 + len(published())


def test_units_are_told_where_they_are_not_ours():
    assert units(numbers_of("timing")) == "as printed; no intervals were published, so nothing is bold"
    assert "hpsv2, hpsv21: 100 x the cosine; geneval@20, geneval@50: percent" in units(numbers_of("general"))
    assert "GenEval: percent" in units(numbers_of("geneval"))


def test_another_table_is_refused():
    with pytest.raises(UserError, match='no published table "tab1"; known: general, '):
        numbers_of("tab1")
