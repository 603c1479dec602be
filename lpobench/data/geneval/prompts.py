"""The 553 published prompts, drawn again by the published rule and seed, and checked against the published file; and
what any prompt demands.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

from lpobench.data.geneval.demands import (
    COLOURS,
    KEY,
    NAMES,
    RELATIONS,
    Clause,
    Demands,
    parse,
    tags_of,
)
from lpobench.plugin import UserError

if TYPE_CHECKING:
    from numpy.random import Generator

    from lpobench.types import Prompt

SEED, DRAWS = 43, 100
SHA256 = "5c48e0813e812e3c373fa5c8ed07a8f0a483be30272b4427b0559c8048e67c13"
"""Of the published evaluation_metadata.jsonl."""
NUMBERS = {2: "two", 3: "three", 4: "four"}


def rows() -> list[tuple[str, dict[str, str]]]:
    """The published prompts with their tags, in the published order."""
    return [(demands.prompt, tags_of(demands)) for demands in published()]


@cache
def published() -> tuple[Demands, ...]:
    """80 single objects; then 100 draws of each other task, those that repeat an earlier one left out.

    Raises UserError where they are not the published ones: NumPy does not promise its draws for ever.
    """
    import numpy as np

    rng = np.random.default_rng(SEED)
    drawn = [_single(NAMES[place]) for place in rng.choice(len(NAMES), len(NAMES), replace=False)]
    for draw in DRAW.values():
        drawn += [draw(rng) for _ in range(DRAWS)]
    found = tuple(dict.fromkeys(drawn))
    digest = hashlib.sha256(metadata(found).encode()).hexdigest()
    if digest != SHA256:
        raise UserError(
            f"NumPy {np.__version__} draws other prompts than GenEval's (SHA-256 {digest[:12]}..., published "
            f"{SHA256[:12]}...); give the published evaluation_metadata.jsonl as a file of prompts"
        )
    return found


def metadata(demands: tuple[Demands, ...]) -> str:
    """The text of the official evaluation_metadata.jsonl."""
    return "".join(f"{one.line()}\n" for one in demands)


@cache
def by_text() -> dict[str, Demands]:
    return {demands.prompt: demands for demands in published()}


def demands_of(prompt: Prompt) -> Demands:
    """By the prompt's tag, else those of the published prompt with this text. Raises UserError."""
    if (line := prompt.tags.get(KEY)) is not None:
        return parse(line)
    if prompt.text in (known := by_text()):
        return known[prompt.text]
    raise UserError(
        f'GenEval knows no demands for the prompt "{prompt.text}"; use the prompts geneval, or a .jsonl file or '
        "folder with GenEval's metadata"
    )


def _single(name: str) -> Demands:
    return Demands("single_object", f"a photo of {_a(name)}", (Clause(name, 1),))


def _two(rng: Generator) -> Demands:
    first, second = _pair(rng)
    return Demands("two_object", _and(first, second), (Clause(first, 1), Clause(second, 1)))


def _counting(rng: Generator) -> Demands:
    name = NAMES[rng.choice(len(NAMES))]
    count = int(rng.integers(min(NUMBERS), max(NUMBERS), endpoint=True))
    prompt = f"a photo of {NUMBERS[count]} {name}{'es' if name.endswith('s') else 's'}"
    return Demands("counting", prompt, (Clause(name, count),), (Clause(name, count + 1),))


def _colours(rng: Generator) -> Demands:
    """Class 0, a person, is never coloured."""
    name = NAMES[rng.choice(len(NAMES) - 1) + 1]
    colour = COLOURS[rng.choice(len(COLOURS))]
    return Demands("colors", f"a photo of {_a(colour)} {name}", (Clause(name, 1, colour),))


def _position(rng: Generator) -> Demands:
    """The second object is the landmark, and its clause comes first."""
    first, second = _pair(rng)
    relation = RELATIONS[rng.choice(len(RELATIONS))]
    prompt = f"a photo of {_a(first)} {relation} {_a(second)}"
    return Demands("position", prompt, (Clause(second, 1), Clause(first, 1, position=(relation, 0))))


def _colour_attribution(rng: Generator) -> Demands:
    places = rng.choice(len(NAMES) - 1, 2, replace=False) + 1
    colours = [COLOURS[place] for place in rng.choice(len(COLOURS), 2, replace=False)]
    clauses = tuple(Clause(NAMES[place], 1, colour) for place, colour in zip(places, colours, strict=True))
    first, second = (f"{clause.colour} {clause.name}" for clause in clauses)
    return Demands("color_attr", _and(first, second), clauses)


DRAW: dict[str, Callable[[Generator], Demands]] = {
    "two_object": _two,
    "counting": _counting,
    "colors": _colours,
    "position": _position,
    "color_attr": _colour_attribution,
}


def _pair(rng: Generator) -> list[str]:
    return [NAMES[place] for place in rng.choice(len(NAMES), 2, replace=False)]


def _and(first: str, second: str) -> str:
    return f"a photo of {_a(first)} and {_a(second)}"


def _a(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
