"""What one GenEval prompt demands of an image, and the line of JSON the official tool keeps it in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from lpobench.plugin import UserError

TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
RELATIONS = ("left of", "right of", "above", "below")
NAMES = tuple(
    """person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign,
    parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella,
    handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard,
    surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange,
    broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop,
    computer mouse, tv remote, computer keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book,
    clock, vase, scissors, teddy bear, hair drier, toothbrush""".replace("\n    ", " ").split(", ")
)
"""COCO's 80 classes in COCO's order, three of them under GenEval's names."""
KEY = "geneval"
"""The tag of a prompt that holds its demands."""


@dataclass(frozen=True)
class Clause:
    """At least `count` objects of a class; for an exclusion, fewer than `count`."""

    name: str
    count: int
    colour: str | None = None
    """So many of them have this colour."""
    position: tuple[str, int] | None = None
    """Each stands in this relation to each object of the clause with this number."""

    def entry(self) -> dict[str, Any]:
        """In the official order of keys."""
        found: dict[str, Any] = {"class": self.name, "count": self.count}
        if self.colour is not None:
            found["color"] = self.colour
        if self.position is not None:
            found["position"] = list(self.position)
        return found


@dataclass(frozen=True)
class Demands:
    """A prompt, its task, and every condition a correct image keeps."""

    task: str
    prompt: str
    include: tuple[Clause, ...]
    exclude: tuple[Clause, ...] = ()

    def line(self) -> str:
        """The official line of JSON, without its end."""
        document: dict[str, Any] = {"tag": self.task, "include": [clause.entry() for clause in self.include]}
        if self.exclude:
            document["exclude"] = [clause.entry() for clause in self.exclude]
        return json.dumps({**document, "prompt": self.prompt})


def tags_of(demands: Demands) -> dict[str, str]:
    """What a prompt carries: its task, and all of its demands for the judge."""
    return {"task": demands.task, KEY: demands.line()}


@cache
def parse(line: str) -> Demands:
    """Raises UserError, one line, where it is not what the official tool would read."""
    try:
        document = json.loads(line)
        include = tuple(_clause(entry) for entry in document["include"])
        exclude = tuple(_clause(entry) for entry in document.get("exclude", ()))
        demands = Demands(str(document["tag"]), str(document["prompt"]), include, exclude)
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        what = f"no {problem}" if isinstance(problem, KeyError) else str(problem)
        raise UserError(f"not GenEval's metadata: {what}, in {line[:200]}") from None
    for number, clause in enumerate(include):
        if clause.position and not 0 <= clause.position[1] < number:
            raise UserError(
                f"not GenEval's metadata: a position refers to no earlier clause, in {line[:200]}"
            )
    return demands


def _clause(entry: Mapping[str, Any]) -> Clause:
    position = entry.get("position")
    clause = Clause(
        _one_of(NAMES, "class", entry["class"]),
        int(entry["count"]),
        None if "color" not in entry else _one_of(COLOURS, "color", entry["color"]),
        None if position is None else (_one_of(RELATIONS, "position", position[0]), int(position[1])),
    )
    if clause.count < 1:
        raise ValueError(f"count is {clause.count}")
    return clause


def _one_of(known: tuple[str, ...], key: str, value: str) -> str:
    if value not in known:
        raise ValueError(f'unknown {key} "{value}"')
    return value
