"""From a prompt and its parse to what it asks: as the official scripts read it, their oversights included.

color, shape, texture   noun chunks, the first 8; a few that are no objects are left out
spatial, 3d_spatial     the first and the last common noun; the first relation of a list that the text contains
numeracy                a number word, and after it a noun of the published list
complex                 noun chunks; around each preposition the noun before and the noun after it; the text less
                        its adjectives
"""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

from lpobench.data.t2i_compbench.demands import KEY, Demand
from lpobench.data.t2i_compbench.objects import COUNTED
from lpobench.data.t2i_compbench.parses import Parse, Parses, Row, digest
from lpobench.plugin import UserError

if TYPE_CHECKING:
    from lpobench.types import Prompt

NO_OBJECTS = ("top", "the side", "the left", "the right")
MOST_PHRASES = 8
PERSON = ("girl", "boy", "man", "woman")
NUMBERS = {
    "a": 1,
    "an": 1,
    "one": 1,
    "two": 2,
    "three": 3,
    "four": 4,
    "five": 5,
    "six": 6,
    "seven": 7,
    "eight": 8,
}
SIDES = ("left", "right", "bottom", "top")
RELATIONS = ("on side of", "next to", "near", *(f"on the {side} of" for side in SIDES), "on top of")
"""In the order they are looked for. The last is found in a prompt and never in an image."""
RELATIONS_3D = ("in front of", "behind", "hidden")
PREPOSITIONS = ("on top of", "on bottom of", "on the left", "on the right", "next to", "on side of", "near")
"""Of complex prompts: another list than that of relations, up to three words long."""


def demand_of(prompt: Prompt, parses: Parses | None = None) -> Demand:
    """By a table of parses if one is given, else by the prompt's tag, else by the shipped table. Raises UserError."""
    if parses is None and KEY in prompt.tags:
        return Demand.of_tags(prompt.tags)
    row = (parses or Parses.shipped()).rows.get(digest(prompt.text))
    if row is None:
        raise UserError(
            f'"{prompt.text}" is no prompt of T2I-CompBench; use the prompts t2i_compbench, or one category of them, '
            "such as t2i_compbench.color"
        )
    return read(prompt.text.strip(), row)


def read(text: str, row: Row) -> Demand:
    """Of a published prompt and its row in a table. Raises UserError where they do not fit together."""
    try:
        demand = _read(text, row)
        demand.check()
    except ValueError as problem:
        raise UserError(f'T2I-CompBench, "{text}": {problem}') from None
    return demand


def _read(text: str, row: Row) -> Demand:
    match row.category:
        case "color" | "shape" | "texture":
            return Demand(row.category, phrases=phrases(Parse.decode(text, row.code)))
        case "spatial":
            return Demand(
                "spatial", objects=outer_nouns(Parse.decode(text, row.code)), relation=first(RELATIONS, text)
            )
        case "3d_spatial":
            nouns = outer_nouns(Parse.decode(text, row.code))
            return Demand("3d_spatial", objects=nouns, relation=first(RELATIONS_3D, text))
        case "numeracy":
            objects, counts = counted(text)
            return Demand("numeracy", objects=objects, counts=counts)
        case "complex":
            parse = Parse.decode(text, row.code)
            demand = Demand("complex", phrases(parse), text=without_adjectives(parse), parts=row.parts)
            return replace(demand, objects=beside_prepositions(parse), relation=first(RELATIONS, text))
    return Demand(row.category, text=text)


def phrases(parse: Parse) -> tuple[str, ...]:
    """Noun chunks that are asked about."""
    chunks = (parse.span(*chunk) for chunk in parse.chunks)
    return tuple(chunk for chunk in chunks if chunk not in NO_OBJECTS)[:MOST_PHRASES]


def outer_nouns(parse: Parse) -> tuple[str, ...]:
    """The first and the last common noun, the same where there is one. Raises ValueError where there is none."""
    nouns = parse.of_kinds("n")
    if not nouns:
        raise ValueError("no noun")
    return named(nouns[0]), named(nouns[-1])


def first(relations: tuple[str, ...], text: str) -> str:
    """The first relation, in their order, that the text contains anywhere; "" for none."""
    return next((relation for relation in relations if relation in text), "")


def counted(text: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Objects and their numbers. A number before any other word, as in "a warm atmosphere", is passed over."""
    words = re.findall(r"\w+|[^\w\s]", text)
    found = [
        (COUNTED[noun], NUMBERS[number])
        for number, noun in pairwise(words)
        if number in NUMBERS and noun in COUNTED
    ]
    return tuple(name for name, _ in found), tuple(count for _, count in found)


def beside_prepositions(parse: Parse) -> tuple[str, ...]:
    """Two objects, or none: there are as many as the prepositions of the prompt yield, and only two can be related.

    Before a preposition the nearest common or proper noun; after it the first common noun, or where there is none the
    last of the first run of proper nouns, unless that run ends the text.
    """
    found: list[str] = []
    for place in range(len(parse.tokens)):
        end = next((place + n for n in (3, 2, 1) if parse.span(place, place + n) in PREPOSITIONS), None)
        if end is None:
            continue
        found += parse.of_kinds("np", 0, place)[-1:]
        found += parse.of_kinds("n", end)[:1] or _first_proper_name(parse, end)
    return tuple(named(noun) for noun in found) if len(found) == 2 else ()


def without_adjectives(parse: Parse) -> str:
    """The other tokens, each between spaces, marks too."""
    return " ".join(parse.of_kinds("npo"))


def named(noun: str) -> str:
    """What the detector calls it."""
    return "person" if noun in PERSON else noun


def _first_proper_name(parse: Parse, begin: int) -> list[str]:
    kinds = [token.kind for token in parse.tokens]
    ends = [place for place in range(begin, len(kinds) - 1) if kinds[place] == "p" != kinds[place + 1]]
    return [parse.span(place, place + 1) for place in ends[:1]]
