"""GenEval's prompts, what they demand of an image, and the folders its official tool reads and writes.

Ghosh, Hajishirzi and Schmidt 2023, arXiv:2310.11513.
"""

from lpobench.data.geneval.demands import (
    COLOURS,
    NAMES,
    RELATIONS,
    TASKS,
    Clause,
    Demands,
    parse,
    tags_of,
)
from lpobench.data.geneval.prompts import demands_of, published, rows

__all__ = [
    "COLOURS",
    "NAMES",
    "RELATIONS",
    "TASKS",
    "Clause",
    "Demands",
    "demands_of",
    "parse",
    "published",
    "rows",
    "tags_of",
]
