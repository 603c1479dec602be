"""`lpobench report --html`: one file with the tables, the figures and the pictures of what was found."""

from datetime import UTC, datetime

import pytest
from made import protocol
from made_gallery import EVAL, PROMPTS, keep, keep_base, png, run, table

from lpobench.cli import main
from lpobench.records.evaluation import EvalRecord, Mean
from lpobench.records.sweep import Axis, Cell, Sweep
from lpobench.report.report import make_report
from lpobench.report.report_page import report_page, subjects


@pytest.fixture
def out(tmp_path):
    folder = tmp_path / "runs"
    keep_base(folder)
    run(folder)
    run(folder, "sft")
    return folder


def test_the_verb_writes_one_file_and_says_how_large(out, tmp_path, capsys):
    file = tmp_path / "new" / "page.html"
    assert main(["report", "--out", str(out), "--html", str(file)]) == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == f"written: {file}, {len(file.read_bytes()) / 1e6:.1f} MB\n"
    text = file.read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>\n")
    assert text.endswith("</html>\n")
    for part in ("2 runs", 'id="table-1"', 'id="figures"', 'id="gallery-1"', "<h2>Comparison</h2>"):
        assert part in text
    assert [path.name for path in file.parent.iterdir()] == ["page.html"]


def test_a_format_is_printed_as_well_where_it_is_asked_for(out, tmp_path, capsys):
    words = ["report", "--out", str(out), "--html", str(tmp_path / "page.html")]
    assert main([*words, "--format", "csv"]) == 0
    assert capsys.readouterr().out.count("\n") > 2


def test_a_folder_is_no_page(out, tmp_path, capsys):
    assert main(["report", "--out", str(out), "--html", str(tmp_path)]) == 2
    assert "is a folder; --html takes the file to write" in capsys.readouterr().err


def test_the_same_records_give_the_same_page(out, tmp_path):
    pages = [tmp_path / "a.html", tmp_path / "b.html"]
    for page in pages:
        assert main(["report", "--out", str(out), "--html", str(page)]) == 0
    assert pages[0].read_bytes() == pages[1].read_bytes()


def test_a_sweep_has_a_gallery_with_a_column_per_value(tmp_path):
    keep_base(tmp_path)
    records, cells = [], []
    for seed, beta in enumerate((100.0, 500.0), 1):
        spec = {"method": {"name": "lpo", "beta": beta}, "eval": EVAL, "seed": seed}
        records.append(run(tmp_path, seed=seed, spec=spec))
        values = {
            "label": f"{beta:g}",
            "values": {"method.beta": beta},
            "seed": seed,
            "command": "lpobench run",
        }
        cells.append(Cell(**values, run=records[-1].id, state="complete"))
    sweep = Sweep(
        id="beta-01234567",
        name="beta",
        title="the temperature",
        axes=(Axis(key="method.beta", label="beta"),),
        baseline="500",
        command="lpobench ablate beta",
        seeds=(1, 2),
        started=datetime(2026, 1, 2, tzinfo=UTC),
        cells=tuple(cells),
    )
    found = make_report(records, [sweep], [], {})
    shown = {subject.title: [s.label for s in subject.methods] for subject in subjects(found)}
    assert shown["ablation beta, tiny-sd15"] == ["100", "500 (recipe)"]
    assert "Pictures: ablation beta, tiny-sd15" in report_page(found).html


def test_evaluations_have_a_gallery(tmp_path):
    records = []
    for place, weights in enumerate(("none", "lpo-sdxl")):
        folder = tmp_path / f"sdxl-{weights}"
        keep(folder, {prompt_id: png(9 * place + number) for number, prompt_id in enumerate(PROMPTS)})
        scores = table("none" if weights == "none" else "lpo", PROMPTS).drop(columns=["variant", "light"])
        scores.to_csv(folder / "scores.csv", index=False)
        records.append(evaluation(folder, weights))
    (subject,) = subjects(make_report([], [], records, {}))
    assert (subject.title, subject.base.label) == ("sdxl", "base")
    assert [source.label for source in subject.methods] == ["lpo-sdxl"]
    html = report_page(make_report([], [], records, {})).html
    assert html.count("data:image/png") == 2 * len(PROMPTS)
    assert '<dd data-value="0.6" class="up">0.600<i>+0.100</i></dd>' in html


def evaluation(folder, weights) -> EvalRecord:
    mean = {"mean": 0.5, "low": 0.4, "high": 0.6, "num_prompts": 3, "num_images": 3}
    values = {"backbone": "sdxl", "weights": weights, "precision": "fp16", "device": "cpu", "processes": 1}
    names = ("backbone_settings", "versions", "costs", "made", "tasks", "suites", "scorers", "files")
    empty = {name: {} for name in names}
    return EvalRecord(
        id=folder.name,
        base="f" * 32,
        protocol=protocol(),
        means="Every image is scored.",
        limits="",
        cut=False,
        finished=datetime(2026, 1, 2, tzinfo=UTC),
        git=None,
        metrics={"correct": Mean(**mean, higher_is_better=True, unit="share")},
        folder=folder,
        **values,
        **empty,
    )
