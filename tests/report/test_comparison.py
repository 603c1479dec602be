"""The comparison in every format: the same numbers, and what must be read with them."""

import csv
import io
import json
import re

import pytest
from made import paired, record
from make_records import Maker, protocol

from lpobench.records.compare import comparisons
from lpobench.records.comparison import Comparison
from lpobench.records.record import Git
from lpobench.report.comparison import comparison_document, duration, sources
from lpobench.report.latex import HEAD, document_latex, escape
from lpobench.report.numbers import COSTS, FIELDS, dumps, to_csv, to_json
from lpobench.report.tables import document_markdown

MEANING = {"standard@1": "what it means"}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Comparison:
    """Two methods with two seeds, one of them a setting more, and one seed on another backbone."""
    maker = Maker(tmp_path_factory.mktemp("runs"), 60)
    records = [maker.run(f"lpo-s{seed}", seed=seed) for seed in (0, 1)]
    records += [maker.run(f"spo-s{seed}", method="spo", reward="spm", seed=seed, gain=0.2) for seed in (0, 1)]
    records.append(maker.run("lpo-b", settings={"beta": 20.0}, gain=0.01))
    records.append(maker.run("xl", backbone="tiny-sdxl"))
    (found,) = comparisons(records)
    return found


def tables(text: str) -> dict[str, list[list[str]]]:
    """Rows by title, of markdown."""
    found: dict[str, list[list[str]]] = {}
    title = ""
    for line in text.splitlines():
        title = line.removeprefix("### ") if line.startswith("### ") else title
        if line.startswith("| ") and not line.startswith("| ---"):
            found.setdefault(title, []).append(line.strip("| ").split(" | "))
    return found


def test_markdown_has_every_mean_with_its_interval(made):
    text = document_markdown(comparison_document(made, MEANING))
    (title, scores), spread, wins, by_task, costs = tables(text).items()
    assert title == "Scores: mean [95% interval of the difference to the base]"
    assert scores[0] == [
        "backbone",
        "method",
        "reward",
        "setting",
        "seeds",
        "correct",
        "alignment",
        "aesthetics",
        "lrm",
    ]
    assert len(scores) == 1 + len(made.rows)
    for line, row in zip(scores[1:], made.rows, strict=True):
        for cell, entry in zip(line[-4:], row.entries.values(), strict=True):
            assert re.fullmatch(r"\*\*.*\*\*", cell) if entry.best else "*" not in cell
            numbers = [float(number) for number in re.findall(r"[-+]?\d+\.\d+", cell)]
            expected = [entry.mean] if row.is_base else [entry.mean, entry.low, entry.high]
            assert numbers == pytest.approx(expected, abs=6e-5)
            assert ("†" in cell) == entry.trained_on
    assert [len(table) for _, table in (spread, wins, by_task, costs)] == [5, 5, 7, 5]
    assert any(entry.best for entry in made.rows[3].entries.values())


def test_seeds_stand_apart_from_prompts(made):
    spread = tables(document_markdown(comparison_document(made, MEANING)))[
        "Difference to the base, and its spread over training seeds"
    ]
    row = next(row for row in made.rows if row.method == "spo")
    entry = row.entries["alignment"]
    assert (
        next(line for line in spread if line[1] == "spo")[-3]
        == f"{entry.difference:+.4f} ± {entry.spread:.4f}"
    )
    assert next(line for line in spread if line[0] == "tiny-sdxl")[-1].endswith("± n/a")


def test_what_must_be_read_with_it(made):
    text = document_markdown(comparison_document(made, MEANING, "Title"))
    assert text.startswith(
        "## Title\n\nprotocol standard@1: what it means  \n60 shapes prompts (29 texts) x 1 image, "
    )
    for line in (
        "deterministic sampling (eta 0), 20 steps, guidance 5, noise seed 1",
        "bold: best of its backbone, where the interval of the difference to the runner-up excludes 0",
        "† the run's own reward",
        "scored by shapes 1, lrm 0123456789ab",
        "code: no git revision recorded; python 3.12.0, lpobench 0.1.0",
        "6 records: lpo-b, lpo-s0, lpo-s1, spo-s0, spo-s1, xl",
    ):
        assert line in text


def test_csv_keeps_every_digit(made):
    lines = list(csv.DictReader(io.StringIO(to_csv({"main": made}))))
    assert tuple(lines[0]) == FIELDS
    for row in made.rows:
        own = [
            x
            for x in lines
            if all(x[k] == getattr(row, k) for k in ("backbone", "method", "reward", "setting"))
        ]
        scored = {line["metric"]: line for line in own if line["scorer"]}
        assert scored.keys() == row.entries.keys()
        for name, entry in row.entries.items():
            assert float(scored[name]["mean"]) == entry.mean
            assert (float(scored[name]["low"]) if scored[name]["low"] else None) == entry.low
            assert scored[name]["best"] == str(entry.best)
        costs = {line["metric"] for line in own if not line["scorer"]}
        assert costs == (set() if row.is_base else set(COSTS))


def test_json_keeps_every_digit_and_names_the_records(made):
    document = json.loads(dumps(to_json(made)))
    assert document["protocol"]["prompts_sha256"] == made.protocol.prompts_sha256
    for found, row in zip(document["rows"], made.rows, strict=True):
        assert found["records"] == [record.id for record in row.records]
        assert found["seeds"] == list(row.seeds)
        assert {name: metric["mean"] for name, metric in found["metrics"].items()} == {
            name: entry.mean for name, entry in row.entries.items()
        }
        assert all(
            metric["by_seed"] == list(row.entries[name].by_seed) for name, metric in found["metrics"].items()
        )


def test_latex_has_as_many_cells_as_columns(made):
    text = HEAD + document_latex(comparison_document(made, MEANING))
    for table in re.findall(r"\\begin\{table\}.*?\\end\{table\}", text, re.DOTALL):
        columns = len(re.search(r"\\begin\{tabular\}\{@\{\}([lr]+)@\{\}\}", table).group(1))
        body = table.split(r"\toprule")[1].split(r"\bottomrule")[0]
        rows = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert rows
        assert {line.count(" & ") + 1 for line in rows} == {columns}
        assert table.count("{") == table.count("}")
    assert r"\textbf{" in text
    assert r"\textdagger{}" in text
    assert "†" not in text
    assert "±" not in text
    assert text.count(r"\midrule") > text.count(r"\toprule"), "backbones are set apart"


def test_latex_shows_what_is_written():
    assert escape(r"50% of a_b & c#{d} \e ~f^g <h>") == (
        r"50\% of a\_b \& c\#\{d\} \textbackslash{}e \textasciitilde{}f\textasciicircum{}g \textless{}h\textgreater{}"
    )
    assert escape("-0.1 [-0.2, +.3] well-known 1-2 r-.5") == "$-$0.1 [$-$0.2, +.3] well-known 1-2 r-.5"


def test_revisions_and_packages_are_told_together():
    runs = [
        record(git=Git(commit="a" * 40, dirty=False)),
        record(git=Git(commit="b" * 40, dirty=True), versions={"python": "3.11.0", "torch": "2"}),
    ]
    assert sources(runs) == [
        "code: aaaaaaaaaa, bbbbbbbbbb with uncommitted changes; python 3.11.0 or 3.12.0, torch 2"
    ]


def test_missing_intervals_and_metrics_say_so(tmp_path):
    few = record(metrics={"correct": paired(low=None, high=None)}, check=None, folder=tmp_path)
    other = record(
        id="x", seed=0, spec={"method": {"name": "spo"}}, method="spo", check=None, folder=tmp_path
    )
    (found,) = comparisons([few, other])
    scores = tables(document_markdown(comparison_document(found, {})))
    first = scores["Scores: mean [95% interval of the difference to the base]"]
    assert first[2][-2:] == ["0.5500 [n/a]", "n/a"]
    assert first[0][-1] == "distance (lower is better)"


def test_long_lists_of_records_are_cut(tmp_path):
    runs = [record(id=f"r{n:03}", seed=n, folder=tmp_path) for n in range(100)]
    (found,) = comparisons(runs)
    text = document_markdown(comparison_document(found, {}))
    assert "100 records: r000, " in text
    assert "r059 and 40 more: --format json has all" in text


def test_protocols_are_told_in_full():
    (found,) = comparisons([record(protocol=protocol(60, images_per_prompt=4, num_texts=60))])
    assert "60 shapes prompts x 4 images" in document_markdown(comparison_document(found, {}))


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (119.9, "119.9 s"), (150, "2.5 min"), (9000, "2.5 h")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text
