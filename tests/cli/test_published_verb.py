"""`lpobench published`: the paper's tables."""

import json

from lpobench.records.published import TITLES, published


def test_without_a_name_it_lists_them(cli):
    lines = cli("published").out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(TITLES)


def test_a_table_as_markdown(cli):
    out = cli("published", "training_cost").out
    assert (
        "| backbone | method | reward_training_a100_h | preference_optimization_a100_h | total_a100_h |"
        in out
    )
    assert "table training_cost of arXiv:2502.01051" in out


def test_all_of_them_in_every_format(cli, tmp_path):
    assert cli("published", "all").out.count("\n## Published: ") == len(TITLES) - 1
    assert cli("published", "all", "-f", "latex").out.count(r"\begin{table}") == len(TITLES)
    assert len(cli("published", "all", "-f", "csv").out.splitlines()) == 1 + len(published())
    assert len(json.loads(cli("published", "--json").out)) == len(published())
    done = cli("published", "timing", "-o", str(tmp_path / "new" / "timing.md"))
    assert (done.code, done.out) == (0, "")
    assert (tmp_path / "new" / "timing.md").read_text().startswith("## Published: scoring the candidates")


def test_another_name_is_refused(cli):
    done = cli("published", "table1")
    assert done.code == 2
    assert 'no published table "table1"; known: general' in done.err
