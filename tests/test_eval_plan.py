"""What an evaluation will do: prompts and protocols of suites, scorers that fit in memory together."""

from typing import ClassVar

import pytest
from made import NAMES, Meter, register_toys

from lpobench.evaluation.execute import grouped
from lpobench.evaluation.plan import plan
from lpobench.evaluation.scorers import Scorer, parse_engines, readiness
from lpobench.plugin import UserError


class Suite(Meter):
    """Judges GenEval's prompts."""

    suite: ClassVar = "geneval"


class Weighty(Meter):
    """Has weights of a given size."""

    def assets(self):
        return {"weights": self._file}

    _file: ClassVar = None


@pytest.fixture(autouse=True)
def toys(monkeypatch):
    monkeypatch.setitem(NAMES, "evaluators", {"meter": Meter, "suite": Suite, "weighty": Weighty})
    register_toys(monkeypatch)


def parts(*evaluators, protocol=None, overrides=(), **flags):
    made = plan("toy", None, evaluators, None, protocol, overrides, flags)
    return [
        (part.protocol.id, part.settings.prompts, part.num_prompts, part.cut, [s.label for s in part.scorers])
        for part in made.parts
    ]


def test_a_suite_has_its_own_images():
    assert parts("meter", "suite") == [
        ("standard@1", "shapes", 600, False, ["meter"]),
        ("geneval@1", "geneval", None, False, ["suite"]),
    ]


def test_a_suite_brings_its_prompts_to_the_standard():
    """All 553, whatever the recipe's number of prompts is."""
    assert parts("suite", protocol="standard@1") == [("standard@1", "geneval", None, False, ["suite"])]
    assert parts("suite", protocol="standard@1", prompts="mine.jsonl") == [
        ("standard@1", "mine.jsonl", 600, False, ["suite"])
    ]


def test_others_may_look_at_a_suites_images():
    assert parts("meter", "suite", protocol="geneval@1") == [
        ("geneval@1", "geneval", None, False, ["meter", "suite"])
    ]


def test_a_suite_does_not_judge_other_prompts():
    with pytest.raises(
        UserError, match="evaluator suite judges the prompts of geneval, protocol hpsv2@1 has hpdv2"
    ):
        parts("suite", protocol="hpsv2@1")


def test_fewer_prompts_are_marked_where_the_protocol_says_how_many():
    assert parts("suite", num_prompts=5)[0][2:4] == (5, True)
    assert parts("meter", num_prompts=5)[0][2:4] == (5, False)
    assert parts("meter", protocol="hpsv2@1", prompts="hpdv2-prompts/anime")[0][2:4] == (None, True)


def ids(**changes):
    made = plan("toy", None, ["meter"], None, None, changes.pop("overrides", ()), changes)
    return made.parts[0].id


def test_the_folder_is_of_what_decides_images():
    assert ids() == ids(overrides=["eval.batch_size=3", "eval.confidence=0.9", "device=cpu"])
    others = [ids(seed=5), ids(num_prompts=7), ids(prompts="x.txt"), ids(overrides=["backbone.scale=0.7"])]
    assert len({ids(), *others}) == 5
    assert ids().startswith("toy-none-standard-1-")


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (None, {"a": ("native",), "b": ("native",)}),
        (["official"], {"a": ("official",), "b": ("official",)}),
        (["b=both"], {"a": ("native",), "b": ("native", "official")}),
        (["official,b=native"], {"a": ("official",), "b": ("native",)}),
    ],
)
def test_engines(texts, expected):
    assert parse_engines(texts, ["a", "b"]) == expected


def test_scorers_are_loaded_together_as_far_as_memory_allows(tmp_path, monkeypatch):
    """Files of 3, 2 and 2 MiB: alone; the first with nobody and the others in pairs at 4; all at 7."""
    scorers = []
    for number, size in enumerate((3, 2, 2)):
        file = tmp_path / str(number)
        file.write_bytes(b"0" * (size * 2**20))
        kind = type(f"Weighty{number}", (Weighty,), {"_file": file, "__module__": __name__})
        scorers.append(Scorer(kind()))
    sizes = {gib: [len(group) for group in grouped(scorers, gib)] for gib in (0, 4 / 1024, 7 / 1024)}
    assert sizes == {0: [1, 1, 1], 4 / 1024: [1, 2], 7 / 1024: [3]}


def test_readiness_names_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(Weighty, "_file", tmp_path / "none")
    found = readiness("weighty")
    assert not found.ready
    assert found.missing == f"weighty: no weights at {tmp_path / 'none'}"
    assert readiness("meter").ready
