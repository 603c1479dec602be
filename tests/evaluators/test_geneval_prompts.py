"""GenEval's prompts: the published file again, byte by byte, and what else can be read."""

import hashlib
import json
from collections import Counter

import pytest

from lpobench.data import geneval
from lpobench.data.geneval import prompts as rule
from lpobench.data.prompts import load_prompts
from lpobench.plugin import UserError
from lpobench.types import Prompt

SINGLE = {"tag": "single_object", "include": [{"class": "cat", "count": 1}], "prompt": "a cat"}


def test_the_published_file_byte_by_byte():
    text = rule.metadata(geneval.published())
    assert len(text) == 85_209
    digest = "5c48e0813e812e3c373fa5c8ed07a8f0a483be30272b4427b0559c8048e67c13"
    assert hashlib.sha256(text.encode()).hexdigest() == digest


def test_the_set_has_553_prompts_of_six_tasks():
    prompts = load_prompts("geneval", "eval", None, 0)
    assert len({prompt.text for prompt in prompts}) == len({prompt.id for prompt in prompts}) == 553
    sizes = {"single_object": 80, "two_object": 99, "counting": 80}
    sizes |= {"colors": 94, "position": 100, "color_attr": 100}
    assert Counter(prompt.tags["task"] for prompt in prompts) == sizes
    assert list(dict.fromkeys(prompt.tags["task"] for prompt in prompts)) == list(geneval.TASKS)
    assert [geneval.demands_of(prompt) for prompt in prompts] == list(geneval.published())


def test_counts_and_colours_are_as_published():
    counting = [demands for demands in geneval.published() if demands.task == "counting"]
    assert Counter(demands.include[0].count for demands in counting) == {2: 26, 3: 28, 4: 26}
    assert all(demands.exclude[0].count == demands.include[0].count + 1 for demands in counting)
    coloured = [c for demands in geneval.published() for c in demands.include if c.colour]
    assert "person" not in {clause.name for clause in coloured}


def test_other_draws_of_numpy_are_noticed(monkeypatch):
    monkeypatch.setattr(rule, "SEED", 44)
    rule.published.cache_clear()
    with pytest.raises(UserError, match=r"draws other prompts than GenEval's .*evaluation_metadata.jsonl"):
        geneval.rows()
    rule.published.cache_clear()


def test_a_published_file_is_read_as_the_set(tmp_path):
    file = tmp_path / "evaluation_metadata.jsonl"
    file.write_text(rule.metadata(geneval.published()), encoding="utf-8")
    assert load_prompts(str(file), "eval", None, 0) == load_prompts("geneval", "eval", None, 0)


def test_demands_come_from_the_tag_and_else_from_the_text():
    line = json.dumps({**SINGLE, "include": [{"class": "dog", "count": 2, "color": "red"}]})
    own = geneval.demands_of(Prompt("a photo of a bench", "x", {"geneval": line}))
    assert own.include == (geneval.Clause("dog", 2, "red"),)
    assert geneval.demands_of(Prompt("a photo of a bench", "x")).include == (geneval.Clause("bench", 1),)
    with pytest.raises(
        UserError, match='GenEval knows no demands for the prompt "a photo of a yeti"; use the'
    ):
        geneval.demands_of(Prompt("a photo of a yeti", "x", {"task": "colors"}))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"include": [{"class": "yeti", "count": 1}]}, 'unknown class "yeti"'),
        ({"include": [{"class": "cat", "count": 1, "color": "grey"}]}, 'unknown color "grey"'),
        ({"include": [{"class": "cat", "count": 0}]}, "count is 0"),
        ({"include": [{"class": "cat", "count": 1, "position": ["near", 0]}]}, 'unknown position "near"'),
        (
            {"include": [{"class": "cat", "count": 1, "position": ["above", 0]}]},
            "refers to no earlier clause",
        ),
        ({"include": [{"class": "cat"}]}, "no 'count'"),
        ({"include": 3}, "not iterable"),
    ],
)
def test_metadata_that_says_nothing_judgeable_is_refused(change, told, tmp_path):
    file = tmp_path / "own.jsonl"
    file.write_text(json.dumps({**SINGLE, **change}) + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=f"own.jsonl:1: not GenEval's metadata: .*{told}"):
        load_prompts(str(file), "eval", None, 0)
