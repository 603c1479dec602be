"""`lpobench report`: which records are shown, and in which form. The tables have tests of their own."""

import csv
import io
import json

import pytest
from made import protocol, record
from make_records import Maker

from lpobench.report import plots


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two seeds of one recipe and a sweep; read only."""
    folder = tmp_path_factory.mktemp("runs")
    maker = Maker(folder, 20)
    for seed in (0, 1):
        maker.run(f"lpo-s{seed}", seed=seed)
    maker.run("spo-s0", method="spo")
    maker.sweep({"0.1": [0.1, 0.1], "0.4": [0.4, 0.4]}, seeds=(0,))
    return folder


def test_markdown_is_printed(cli, root):
    done = cli("report", "--out", str(root))
    assert done.code == 0
    assert done.out.startswith("## Comparison\n\nprotocol standard@1: Every image is scored.")
    assert "| tiny-sd15 | lpo | lrm | method.min_gap=[0.35, 0.5] | 2 |" in done.out
    assert "\n## Ablation threshold: smallest margin kept\n" in done.out
    assert done.err == "1 run of sweeps in the sweeps' own tables alone; --all has them in the main one too\n"


def test_each_adds_every_run(cli, root):
    out = cli("report", "--each", "--out", str(root)).out
    assert out.count("| phase | time | denoiser calls | latents denoised | images decoded |") == 5


def test_some_runs_alone(cli, root):
    done = cli("report", "lpo-s0", "s?o-*", "--out", str(root))
    assert done.err == ""
    assert "2 records: lpo-s0, spo-s0" in done.out
    assert "Ablation" not in done.out
    missing = cli("report", "lpo-s9", "--out", str(root))
    assert (missing.code, missing.out) == (2, "")
    assert 'no finished run "lpo-s9"; did you mean "lpo-s' in missing.err


@pytest.mark.parametrize("words", [["--json"], ["--format", "json"]])
def test_json_is_one_document(cli, root, words):
    document = json.loads(cli("report", *words, "--out", str(root)).out)
    assert [found["title"] for found in document["comparisons"]] == ["Comparison"]
    assert [found["name"] for found in document["sweeps"]] == ["threshold"]
    assert document["evaluations"] == []


def test_csv_and_latex(cli, root):
    lines = list(csv.DictReader(io.StringIO(cli("report", "-f", "csv", "--out", str(root)).out)))
    assert {line["table"] for line in lines} == {"Comparison", "sweep threshold-01234567"}
    latex = cli("report", "-f", "latex", "--out", str(root)).out
    assert latex.startswith("% needs \\usepackage{booktabs,graphicx}")


@pytest.mark.parametrize(
    ("name", "start"), [("a.md", "## "), ("a.csv", "table,"), ("a.tex", "% "), ("a.json", "{")]
)
def test_a_file_is_written_as_its_name_ends(cli, root, tmp_path, name, start):
    path = tmp_path / "new" / name
    done = cli("report", "--out", str(root), "--output", str(path))
    assert (done.code, done.out) == (0, "")
    assert path.read_text().startswith(start)
    assert f"written: {path}" in done.err


def test_a_folder_gets_every_format_and_the_figures(cli, root, tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "save_all", lambda found, folder: [folder / f"{len(found.records)}.png"])
    done = cli("report", "--out", str(root), "-o", str(tmp_path / "all"))
    assert sorted(path.name for path in (tmp_path / "all").iterdir()) == [
        f"report.{ending}" for ending in ("csv", "json", "md", "tex")
    ]
    assert f"written: 5 files in {tmp_path / 'all'}" in done.err


def test_another_ending_is_refused(cli, root, tmp_path):
    done = cli("report", "--out", str(root), "-o", str(tmp_path / "a.pdf"))
    assert done.code == 2
    assert "a.pdf ends in none of .md, .csv, .tex, .json: give --format, or a folder" in done.err


def test_published_numbers_follow(cli, root):
    out = cli("report", "--published", "--out", str(root)).out
    assert "### Published: general preference" in out
    assert "| sd15 | lpo | threshold=0.4 | 21.32 |" in out


def test_runs_cut_short_are_left_out_unless_asked_for(cli, tmp_path):
    maker = Maker(tmp_path, 10)
    maker.run("whole")
    maker.run("cut", limit=3)
    done = cli("report", "--out", str(tmp_path))
    assert "1 record: whole" in done.out
    assert "1 run cut short by --limit, left out; --all has them" in done.err
    assert "2 records: cut, whole" in cli("report", "--all", "--out", str(tmp_path)).out
    assert "limit=3" in cli("report", "--all", "--out", str(tmp_path)).out


def test_protocols_have_tables_of_their_own(cli, tmp_path):
    for name, guidance in (("a", 5.0), ("b", 7.5)):
        (tmp_path / name).mkdir()
        record(id=name, protocol=protocol(guidance_scale=guidance)).write(tmp_path / name)
    done = cli("report", "--out", str(tmp_path))
    assert "## Comparison 1 of 2" in done.out
    assert "## Comparison 2 of 2" in done.out
    assert "2 protocols, each with a table of its own: their numbers are not comparable" in done.err


def test_damage_is_named_and_never_a_traceback(cli, tmp_path):
    Maker(tmp_path, 10).run("whole")
    for name, text in (("half", '{"schema'), ("later", '{"schema_version": 99}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "record.json").write_text(text)
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "evaluation.json").write_text("{")
    (tmp_path / "sweeps" / "torn").mkdir(parents=True)
    (tmp_path / "sweeps" / "torn" / "sweep.json").write_text("[]")
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "record.json").write_text((tmp_path / "whole" / "record.json").read_text())
    done = cli("report", "--out", str(tmp_path))
    assert done.code == 0
    assert "1 record: whole" in done.out
    assert "Traceback" not in done.err
    assert [line.split(":")[0] for line in done.err.splitlines()] == ["left out"] * 5
    for name in ("half", "later", "eval", "torn", "copy"):
        assert f"/{name}" in done.err


def test_changed_scores_are_told_and_not_used(cli, tmp_path):
    maker = Maker(tmp_path, 10)
    for seed in (0, 1):
        maker.run(f"s{seed}", seed=seed)
    (tmp_path / "s1" / "scores.csv").write_text("variant,prompt_id\n")
    done = cli("report", "--out", str(tmp_path))
    assert done.code == 0
    assert "no pooled interval, and no bold, for s1: " in done.out
    assert "[n/a]" in done.out


def test_an_empty_folder_is_said(cli, tmp_path):
    done = cli("report", "--out", str(tmp_path))
    assert done.code == 3
    assert f"no records in {tmp_path}" in done.err
