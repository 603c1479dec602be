"""`lpobench report`: which tables are made of which records. The tables have tests of their own."""

import json
from types import SimpleNamespace

import pytest

from lpobench.records import record, stats
from lpobench.report import tables


def finished(name, recipe, trained=True):
    return SimpleNamespace(id=name, recipe=recipe, trained=trained, model_dump=lambda mode: {"id": name})


@pytest.fixture
def records(monkeypatch):
    """Two seeds of one recipe, one run of another, and two that trained nothing."""
    found = [finished("a-s0", "a"), finished("a-s1", "a"), finished("b-s0", "b")]
    found += [finished(f"none-s{seed}", "none", trained=False) for seed in (0, 1)]
    monkeypatch.setattr(record, "read_all", lambda out: found)
    monkeypatch.setattr(
        stats, "families", lambda rs: [[r for r in rs if r.recipe == recipe] for recipe in ("a", "b", "none")]
    )
    monkeypatch.setattr(stats, "pooled", lambda family: "+".join(r.id for r in family))
    for single, together in (("comparison", "pooled_comparison"), ("to_markdown", "pooled_markdown")):
        monkeypatch.setattr(tables, single, lambda r, kind=single: f"{kind} {r.id}")
        monkeypatch.setattr(tables, together, lambda pooled, kind=together: f"{kind} {pooled}")
    return found


@pytest.mark.parametrize(
    ("words", "single", "together"),
    [([], "comparison", "pooled_comparison"), (["--markdown"], "to_markdown", "pooled_markdown")],
)
def test_seeds_of_one_recipe_are_pooled_and_shown(cli, records, words, single, together):
    done = cli("report", *words)
    assert done.code == 0
    assert done.err == ""
    assert [line for line in done.out.splitlines() if line] == [
        f"{together} a-s0+a-s1",
        *(f"{single} {name}" for name in ("a-s0", "a-s1", "b-s0", "none-s0", "none-s1")),
    ]


def test_json_is_the_list_of_records(cli, records):
    assert json.loads(cli("report", "--json").out) == [{"id": finished.id} for finished in records]
