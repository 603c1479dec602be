"""Reading prompt files, and the rule that evaluation prompts are held out."""

import pytest

from lpobench.data.prompts import check_held_out, load_prompts
from lpobench.plugin import MissingAsset, UserError
from lpobench.types import Prompt


def written(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.txt", "a red circle\n\n  a blue star \n"),
        ("a.csv", "number,prompt\n1,a red circle\n2,\n3,a blue star\n"),
        ("a.csv", "\ufeffcaption\na red circle\na blue star\n"),
        ("a.jsonl", '{"prompt": "a red circle"}\n\n{"caption": "a blue star", "n": 3}\n'),
        ("a.json", '["a red circle", "", "a blue star"]'),
        ("a.json", '[{"caption": "a red circle", "trainset_idx": 3}, {"prompt": "a blue star"}]'),
        ("a.tsv", "Prompt\tNote\na red circle\t\na blue star\tx\n"),
    ],
)
def test_every_format_gives_the_same_prompts(tmp_path, name, text):
    prompts = load_prompts(written(tmp_path, name, text), "eval", None, seed=0)
    assert [p.text for p in prompts] == ["a red circle", "a blue star"]


def test_quoted_commas_and_line_breaks_stay_in_a_csv_prompt(tmp_path):
    source = written(tmp_path, "a.csv", 'prompt,task\n"a cat, asleep\nin the sun",single\n')
    assert load_prompts(source, "eval", None, seed=0)[0].text == "a cat, asleep\nin the sun"


def test_task_becomes_a_tag(tmp_path):
    csv = load_prompts(written(tmp_path, "a.csv", "prompt,task\na,counting\nb,\n"), "eval", None, seed=0)
    jsonl = load_prompts(
        written(tmp_path, "a.jsonl", '{"prompt": "a", "task": "counting"}\n'), "eval", None, seed=0
    )
    assert [p.tags for p in csv] == [{"task": "counting"}, {}]
    assert jsonl[0].tags == {"task": "counting"}


def test_ids_depend_on_the_text_alone_and_duplicates_differ(tmp_path):
    first = load_prompts(written(tmp_path, "a.txt", "x\ny\nx\nx\n"), "eval", None, seed=0)
    second = load_prompts(written(tmp_path, "b.txt", "y\nx\n"), "eval", None, seed=0)
    x, y = second[1].id, second[0].id
    assert [p.id for p in first] == [x, y, f"{x}-2", f"{x}-3"]


def test_a_longer_file_is_sampled_by_seed_in_file_order(tmp_path):
    source = written(tmp_path, "a.txt", "".join(f"{i:02}\n" for i in range(40)))
    some = load_prompts(source, "eval", 10, seed=3)
    assert [p.text for p in some] == sorted(p.text for p in some)
    assert some == load_prompts(source, "eval", 10, seed=3)
    assert some != load_prompts(source, "eval", 10, seed=4)
    assert len(load_prompts(source, "eval", 99, seed=3)) == 40


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "\n \n", "no prompts in"),
        ("a.csv", "text,label\na,1\n", "no prompt or caption among text, label"),
        ("a.csv", "", "it is empty"),
        ("a.jsonl", '{"prompt": "a"}\n{"text": "b"}\n', "a.jsonl:2: no prompt or caption among text"),
        ("a.jsonl", '{"prompt": 3}\n', "a.jsonl:1: the prompt must be a string, got 3"),
        ("a.jsonl", "[1]\n", "a.jsonl:1: expected an object"),
        ("a.jsonl", "{\n", "a.jsonl:1: not JSON"),
        ("a.json", '{"prompt": "a"}', "a.json: expected a list of prompts"),
        ("a.json", '["a", 3]', r"a.json\[1\]: expected an object"),
        (
            "a.yaml",
            "a\n",
            "known: shapes, prompts-4k, .* or a file ending in .txt, .csv, .tsv, .json, .jsonl",
        ),
    ],
)
def test_what_is_wrong_is_said(tmp_path, name, text, message):
    with pytest.raises(UserError, match=message):
        load_prompts(written(tmp_path, name, text), "eval", None, seed=0)


def test_a_file_that_is_not_there_or_not_text(tmp_path):
    with pytest.raises(MissingAsset, match=r"no prompt file .*a\.txt"):
        load_prompts(str(tmp_path / "a.txt"), "eval", None, seed=0)
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot read prompt file"):
        load_prompts(str(tmp_path / "b.txt"), "eval", None, seed=0)


def test_training_prompts_may_not_be_evaluation_prompts():
    train, evaluation = [Prompt("a", "1"), Prompt("b", "2")], [Prompt("b", "9"), Prompt("c", "3")]
    check_held_out(train[:1], evaluation)
    with pytest.raises(UserError, match="1 of the 2 evaluation prompts are also training prompts"):
        check_held_out(train, evaluation)


def test_case_and_spacing_hide_no_overlap_and_a_word_allows_it():
    train, evaluation = [Prompt("A  red star", "1")], [Prompt("a red Star ", "9")]
    with pytest.raises(UserError, match=r"'a red star'.*or set train\.allow_overlap"):
        check_held_out(train, evaluation)
    check_held_out(train, evaluation, allow_overlap=True)
