"""T2I-CompBench's prompts: the table of parses, what a prompt asks, and the published files where they are."""

import json
from collections import Counter
from pathlib import Path

import pytest

from evaluators.t2i_compbench.settings import T2ICompBench
from lpobench.data.prompts import load_prompts
from lpobench.data.t2i_compbench import CATEGORIES, KEY, Demand, Parses, demand_of, prompts, reading
from lpobench.data.t2i_compbench.make_parses import make, parse_of
from lpobench.data.t2i_compbench.objects import PLURALS
from lpobench.data.t2i_compbench.parses import Parse, Row, Token
from lpobench.plugin import MissingAsset, UserError
from lpobench.types import Prompt

PUBLISHED = Path(__file__).parents[3] / "shared" / "reference" / "data" / "t2i_compbench"
here = pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published prompts are not on this machine")


@pytest.fixture
def published(tmp_path, monkeypatch):
    """The assets are where a user has put them."""
    (tmp_path / prompts.ASSET).symlink_to(PUBLISHED)
    monkeypatch.setenv("LPOBENCH_ASSETS", str(tmp_path))


@pytest.fixture
def nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("LPOBENCH_ASSETS", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))


def asked(text, code, category="complex", *parts):
    return reading.read(text, Row(category, parts or ("attribute", "spatial"), code))


def test_a_parse_is_written_and_read():
    text = "The red hat was  on top."
    parse = Parse.decode(text, "[3o3a3n]3o2o[3n]1o")
    assert [parse.span(*chunk) for chunk in parse.chunks] == ["The red hat", "top"]
    assert parse.of_kinds("n") == ["hat", "top"]
    assert parse.code == "[3o3a3n]3o2o[3n]1o"
    assert parse.span(5, 9) == "top.", "a span ends with its text"
    assert Parse.decode("red hat", "[3a][3n]").chunks == ((0, 1), (1, 2))
    for wrong in ("[3o3a3n]", "[3o3a3n]3o2o[3n]1x", "[3o3a3n]3o2o3n.1o", "[3o3a3n]3o2o[3n]1o1o"):
        with pytest.raises(ValueError, match=r"is of another text|unknown part of speech"):
            Parse.decode(text, wrong)


def test_a_parser_s_document_becomes_a_parse():
    """White space that is a token goes; what is no noun, name or adjective is other."""

    class Word:
        def __init__(self, i, idx, text, pos):
            self.i, self.idx, self.text, self.pos_ = i, idx, text, pos
            self.is_space = not text.strip()

        def __len__(self):
            return len(self.text)

    class Chunk:
        start, end = 1, 3

    class Document(list):
        text, noun_chunks = "in  red Rome", [Chunk]

    words = [(0, "in", "ADP"), (3, " ", "SPACE"), (4, "red", "ADJ"), (8, "Rome", "PROPN")]
    document = Document(Word(i, *word) for i, word in enumerate(words))
    Chunk.start, Chunk.end = 2, 4
    parse = parse_of(document)
    assert parse.tokens == (Token(0, 2, "o"), Token(4, 7, "a"), Token(8, 12, "p"))
    assert parse.code == "2o[3a4p]"


def test_the_shipped_table_is_whole_and_named_by_the_version():
    table = Parses.shipped()
    assert Counter(row.category for row in table.rows.values()) == dict.fromkeys(CATEGORIES, 300)
    kinds = Counter(row.parts for row in table.rows.values() if row.category == "complex")
    assert kinds == {
        ("attribute", "action"): 212,
        ("attribute", "spatial"): 58,
        ("attribute", "spatial", "action"): 30,
    }
    assert table.model == "en_core_web_sm 3.6.0"
    assert T2ICompBench().version == "1+en_core_web_sm-3.6.0"


def test_what_each_category_asks():
    assert asked("a red hat and a key", "[1o3a3n]3o[1o3n]", "color") == Demand(
        "color", ("a red hat", "a key")
    )
    assert asked("top a cup the left", "[3n][1o3n][3o4n]", "shape").phrases == ("a cup",)
    girl = asked("a girl on side of a key", "[1o4n]2o[4n]2o[1o3n]", "spatial")
    assert (girl.objects, girl.relation) == (("person", "key"), "on side of")
    lamp = asked("a lamp hidden by a key", "[1o4n]6o2o[1o3o]", "3d_spatial")
    assert (lamp.objects, lamp.relation) == (("lamp", "lamp"), "hidden")
    mice = asked("three mice, a warm bed and one goldfish", "", "numeracy")
    assert (mice.objects, mice.counts) == (("mouse", "goldfish"), (3, 1))
    assert asked("A child runs.", "", "non_spatial").text == "A child runs."


def test_a_complex_prompt_s_objects():
    """Beside a preposition, nouns; behind it names only where no noun follows; two objects or none."""
    hat = asked("The red hat was on top of a Rack .", "[3o3a3n]3o2o3n2o[1o4p]1o")
    assert (hat.objects, hat.relation) == (("hat", "Rack"), "on top of")
    assert hat.text == "The hat was on top of a Rack ."
    assert asked("a cat near a dog next to a cow", "[1o3n]4o[1o3n]4o2o[1o3n]").objects == ()
    assert asked("a cat near Big Ben stood", "[1o3n]4o[3p3p]5o").objects == ("cat", "Ben")
    assert asked("a cat near Big Ben", "[1o3n]4o[3p3p]").objects == ()
    assert asked("near", "4o").objects == ()


def test_a_demand_travels_in_tags():
    demand = Demand("complex", ("a",), ("b", "c"), "near", (), "t", ("attribute", "spatial"))
    prompt = Prompt("any text", "id", demand.tags)
    assert prompt.tags["task"] == "complex"
    assert demand_of(prompt) == demand


@pytest.mark.parametrize(
    ("task", "tag", "why"),
    [
        ("color", "[", "Expecting value"),
        ("color", '{"phrase": []}', "unknown key phrase"),
        ("colour", "{}", 'unknown task "colour"'),
        ("numeracy", '{"objects": ["cat"]}', "1 objects and 0 counts"),
        ("spatial", '{"objects": ["cat"]}', "1 objects, a relation has 2"),
        ("complex", '{"parts": ["color"]}', 'unknown part "color"'),
        ("complex", "{}", "no parts"),
        ("color", "7", "no attribute 'keys'"),
    ],
)
def test_tags_that_are_no_demand_are_told_in_one_line(task, tag, why):
    with pytest.raises(UserError, match="not a demand of T2I-CompBench") as caught:
        demand_of(Prompt("text", "id", {"task": task, KEY: tag}))
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)


def test_prompts_of_another_suite_are_refused():
    with pytest.raises(
        UserError, match='"two red stars" is no prompt of T2I-CompBench; use the prompts t2i_compbench'
    ):
        demand_of(Prompt("two red stars", "id", {"task": "counting"}))


def test_broken_tables_are_refused(tmp_path):
    cases = {"a\tb\n": "does not name", "# m\na\tb\n": "line 2 has 2 fields", "": "is no table"}
    for content, why in cases.items():
        (tmp_path / "t.tsv").write_text(content)
        with pytest.raises(UserError, match=why):
            Parses.read(tmp_path / "t.tsv")
    with pytest.raises(MissingAsset, match=r"no table of parses .*none\.tsv"):
        Parses.read(tmp_path / "none.tsv")


@here
@pytest.mark.usefixtures("published")
def test_published_prompts_and_what_the_sheet_counts_in_them():
    found = load_prompts("t2i_compbench", "eval", None, 0)
    assert [prompt.tags["task"] for prompt in found] == [name for name in CATEGORIES for _ in range(300)]
    assert len({prompt.id for prompt in found}) == 2400
    demands = [demand_of(prompt) for prompt in found]
    assert demands == [demand_of(Prompt(prompt.text, "")) for prompt in found], "the table has the same"
    relations = Counter((demand.category, demand.relation) for demand in demands)
    sides = {"top": 56, "right": 56, "bottom": 52, "left": 51}
    wanted = {f"on the {side} of": count for side, count in sides.items()}
    wanted |= {"on side of": 37, "next to": 24, "near": 24}
    assert {name: relations["spatial", name] for name in wanted} == wanted
    assert [relations["3d_spatial", name] for name in ("hidden", "in front of", "behind")] == [115, 102, 83]
    assert relations["complex", "on top of"] == 33
    assert max(len(demand.phrases) for demand in demands) == 8


@here
@pytest.mark.usefixtures("published")
def test_one_category_and_the_lists_of_the_reference():
    assert [prompt.text for prompt in load_prompts("t2i_compbench.color", "eval", 1, 0)]
    assert load_prompts("t2i_compbench.3d_spatial", "eval", None, 0)[0].text == "a dog in front of a desk"
    lines = (PUBLISHED / "new_objects.txt").read_text().splitlines()
    assert {tuple(line.strip().split(" - ")) for line in lines} == set(PLURALS.items())
    parts = {name: row.parts for name, row in Parses.shipped().rows.items()}
    assert {name: row.parts for name, (_, row) in prompts.unparsed(PUBLISHED).items()} == parts


@here
def test_another_file_is_refused(tmp_path, monkeypatch):
    (tmp_path / prompts.ASSET).mkdir()
    for file in PUBLISHED.glob("*_val*.txt"):
        (tmp_path / prompts.ASSET / file.name).write_bytes(file.read_bytes().replace(b"\r\n", b"\n"))
    monkeypatch.setenv("LPOBENCH_ASSETS", str(tmp_path))
    with pytest.raises(
        UserError, match=r"color_val\.txt is not the published file: its SHA-256 is .* be 16342"
    ):
        load_prompts("t2i_compbench.color", "eval", None, 0)


@pytest.mark.usefixtures("nothing")
def test_missing_prompts_say_what_gets_them():
    with pytest.raises(MissingAsset, match="`lpobench download t2i-compbench-prompts` fetches it"):
        load_prompts("t2i_compbench.color", "eval", None, 0)


@here
def test_a_parser_that_is_not_here_is_told():
    with pytest.raises(MissingAsset, match=r"install lpobench\[compbench\]|no model no-such-model of spaCy"):
        make(PUBLISHED, "no-such-model")


def test_tags_are_json():
    assert json.loads(Demand("color", ("a cup",)).tags[KEY]) == {"phrases": ["a cup"]}
