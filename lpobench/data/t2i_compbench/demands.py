"""What one prompt of T2I-CompBench asks of an image, and the tag that keeps it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Literal, Self, get_args

from lpobench.plugin import UserError

CATEGORIES = ("color", "shape", "texture", "spatial", "3d_spatial", "numeracy", "non_spatial", "complex")
Part = Literal["attribute", "spatial", "action"]
KEY = "t2i_compbench"
"""The tag of a prompt that holds its demand."""


@dataclass(frozen=True)
class Demand:
    """A prompt's category, and what its scores need."""

    category: str
    phrases: tuple[str, ...] = ()
    """Noun phrases: is each in the image?"""
    objects: tuple[str, ...] = ()
    """Names to detect; of a relation, how the first stands to the second. None where two could not be told."""
    relation: str = ""
    counts: tuple[int, ...] = ()
    """How many of each object."""
    text: str = ""
    """What CLIP compares the image with."""
    parts: tuple[Part, ...] = ()
    """Of a complex prompt: the scores whose mean its score is."""

    @property
    def tags(self) -> dict[str, str]:
        """What a prompt carries."""
        values = {name: value for name, value in asdict(self).items() if value and name != "category"}
        return {"task": self.category, KEY: json.dumps(values)}

    @classmethod
    def of_tags(cls, tags: Mapping[str, str]) -> Self:
        """Raises UserError, one line, where they are not what `tags` makes."""
        try:
            values = json.loads(tags[KEY])
            if unknown := sorted(values.keys() - {field.name for field in fields(cls)[1:]}):
                raise ValueError(f"unknown key {unknown[0]}")
            demand = cls(tags.get("task", ""), **{name: _frozen(value) for name, value in values.items()})
            demand.check()
        except (ValueError, AttributeError, TypeError) as problem:
            raise UserError(f"not a demand of T2I-CompBench: {problem}, in {tags[KEY][:200]}") from None
        return demand

    def check(self) -> None:
        """Raises ValueError where its category cannot be scored by what it holds."""
        if self.category not in CATEGORIES:
            raise ValueError(f'unknown task "{self.category}"; known: {", ".join(CATEGORIES)}')
        if unknown := set(self.parts) - set(get_args(Part)):
            raise ValueError(f'unknown part "{min(unknown)}"')
        if self.category == "numeracy" and not 0 < len(self.objects) == len(self.counts):
            raise ValueError(f"{len(self.objects)} objects and {len(self.counts)} counts")
        if self.category in ("spatial", "3d_spatial") and len(self.objects) != 2:
            raise ValueError(f"{len(self.objects)} objects, a relation has 2")
        if self.category == "complex" and not self.parts:
            raise ValueError("no parts")


def _frozen(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value
