"""Sweeps as tables and figures: a row per value, seeds pooled, and what is missing said."""

import pytest
from make_records import Maker

from lpobench.records.record import read_all
from lpobench.records.sweep import Sweep
from lpobench.report.ablation import hidden_cells, sweep_comparisons, sweep_document
from lpobench.report.report import make_report
from lpobench.report.tables import document_markdown

VALUES = {"[0.05, 0.15]": [0.05, 0.15], "[0.35, 0.5]": [0.35, 0.5], "0.6": [0.6, 0.6]}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A sweep of three values and two seeds, and a run of another method."""
    folder = tmp_path_factory.mktemp("runs")
    maker = Maker(folder, 40)
    maker.sweep(VALUES, seeds=(0, 1))
    maker.run("other", method="spo", reward="spm")
    return folder


@pytest.fixture
def sweep(root):
    return Sweep.read(root / "sweeps" / "threshold-01234567")


@pytest.fixture
def records(root):
    return {record.id: record for record in read_all(root)}


def test_a_row_per_value_in_the_order_of_the_sweep(sweep, records):
    (found,) = sweep_comparisons(sweep, records)
    assert [row.setting for row in found.rows] == ["", *VALUES]
    assert [row.seeds for row in found.rows] == [(), (0, 1), (0, 1), (0, 1)]
    text = document_markdown(sweep_document(sweep, found, {}))
    assert text.startswith("## Ablation threshold: smallest margin kept\n")
    assert "| threshold | seeds | correct | alignment | aesthetics | lrm |" in text
    for start in ("| base |  | ", "| [0.05, 0.15] | 2 | ", "| [0.35, 0.5] (recipe) | 2 | ", "| 0.6 | 2 | "):
        assert start in text
    assert "\nlpobench ablate threshold  \n" in text


def test_cells_that_failed_or_are_still_to_be_run_are_told(sweep, records):
    cells = list(sweep.cells)
    cells[0] = cells[0].model_copy(update={"state": "failed", "error": "out of memory", "run": "gone"})
    cells[1] = cells[1].model_copy(update={"state": "planned", "run": "gone too"})
    changed = sweep.model_copy(update={"cells": tuple(cells)})
    (found,) = sweep_comparisons(changed, records)
    assert [row.setting for row in found.rows] == ["", *list(VALUES)[1:]]
    text = document_markdown(sweep_document(changed, found, {}))
    assert "failed: [0.05, 0.15], seed 0: out of memory" in text
    assert "1 of 6 cells have not been run yet" in text


def test_the_main_table_has_the_recipes_own_value_alone(sweep, records):
    hidden = hidden_cells([sweep], records)
    assert hidden == {f"sweep-{value}-s{seed}" for value in (0, 2) for seed in (0, 1)}
    shown = make_report(list(records.values()), [sweep], [], {})
    (main,) = shown.comparisons.values()
    assert [(row.method, row.setting) for row in main.rows] == [("none", ""), ("lpo", ""), ("spo", "")]
    assert shown.notes == [
        "4 runs of sweeps in the sweeps' own tables alone; --all has them in the main one too"
    ]
    everything = make_report(list(records.values()), [sweep], [], {}, everything=True)
    (main,) = everything.comparisons.values()
    assert len(main.rows) == 1 + len(VALUES) + 1


def test_a_sweep_over_methods_is_what_the_main_table_is_about(sweep, records):
    cells = [cell for cell in sweep.cells if cell.run == "sweep-0-s0"]
    cells += [cells[0].model_copy(update={"run": "other", "label": "spo"})]
    methods = sweep.model_copy(update={"cells": tuple(cells), "baseline": None})
    assert hidden_cells([methods], records) == set()


def test_published_tables_stand_after_ours(sweep, records):
    found = make_report(list(records.values()), [sweep], [], {}, published=True)
    main, ablation = found.documents
    assert main.sections[-1].title.startswith("Published: general preference")
    assert ablation.sections[-1].title.startswith("Published: threshold of the preference margin")
    assert "not ranked or averaged with ours" in ablation.sections[-1].note
    assert all("Published" not in section.title for section in main.sections[:-1])
    named = sweep.model_copy(update={"name": "mine"})
    assert make_report(list(records.values()), [named], [], {}, published=True).documents[1].sections[
        -1
    ].title == ("Costs of a run")


@pytest.mark.parametrize(("kind", "start"), [("csv", "table,protocol,"), ("latex", "% needs"), ("json", "{")])
def test_sweeps_are_in_every_format(sweep, records, kind, start):
    text = make_report(list(records.values()), [sweep], [], {}).text(kind)
    assert text.startswith(start)
    assert "threshold" in text
    assert "[0.05, 0.15]" in text
