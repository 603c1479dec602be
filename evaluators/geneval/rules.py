"""GenEval's rules on detected objects: NumPy alone, no network.

As the official tool applies them (Ghosh et al. 2023 and its code): objects of a class in order of their score, at most
16 of them, above 0.3, or 0.9 where the task is counting; no non-maximum suppression. Equal scores are ordered last
one first, which the official tool leaves to the sort.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int64

from lpobench.data.geneval import NAMES, Clause, Demands

THRESHOLD, COUNTING_THRESHOLD = 0.3, 0.9
MOST_OF_A_CLASS = 16
POSITION_THRESHOLD = 0.1
"""Share of the two objects' sizes that an offset must exceed to count."""
HALF, NEARLY_NONE = 0.5, 1e-3


@dataclass(frozen=True)
class Detections:
    """The objects of one image, in no order."""

    labels: Int64[np.ndarray, " n"]
    scores: Float32[np.ndarray, " n"]
    boxes: Float32[np.ndarray, "n 4"]
    """x and y of the first pixel, and of the one after the last."""
    masks: Bool[np.ndarray, "n H W"]


@dataclass(frozen=True)
class Found:
    """One detected object."""

    box: Float32[np.ndarray, " 4"]
    mask: Bool[np.ndarray, "H W"]


Objects = Mapping[str, Sequence[Found]]
"""Class -> its objects, the surest first."""
Painter = Callable[[Sequence[Found], str], list[str]]
"""The colours of objects of a class."""


def threshold(task: str) -> float:
    """A detection counts above this score."""
    return COUNTING_THRESHOLD if task == "counting" else THRESHOLD


def objects(detections: Detections, task: str) -> dict[str, list[Found]]:
    """What counts of the detections of an image."""
    found = {}
    for label in np.unique(detections.labels):
        places = np.flatnonzero(detections.labels == label)
        ordered = places[np.argsort(detections.scores[places], kind="stable")[::-1]]
        sure = ordered[detections.scores[ordered] > threshold(task)][:MOST_OF_A_CLASS]
        found[NAMES[label]] = [Found(detections.boxes[place], detections.masks[place]) for place in sure]
    return found


def is_correct(demands: Demands, found: Objects, colours: Painter) -> bool:
    """Does every clause hold, and none of the excluded ones?"""
    matched: list[Sequence[Found]] = []
    for clause in demands.include:
        chosen = found.get(clause.name, ())[: clause.count]
        if not _holds(clause, chosen, matched, colours):
            return False
        matched.append(chosen)
    return all(len(found.get(clause.name, ())) < clause.count for clause in demands.exclude)


def _holds(
    clause: Clause, chosen: Sequence[Found], matched: Sequence[Sequence[Found]], colours: Painter
) -> bool:
    """`matched`: the objects of each earlier clause."""
    if len(chosen) < clause.count:
        return False
    if clause.colour and colours(chosen, clause.name).count(clause.colour) < clause.count:
        return False
    if clause.position:
        relation, place = clause.position
        return all(relation in relations(a, b) for a in chosen for b in matched[place])
    return True


def relations(a: Found, b: Found) -> set[str]:
    """How a stands to b: none, one or two relations.

    Of the offset between the centres a tenth of both sizes is taken off; what is left is measured in units of the
    offset's own length.
    """
    corners = np.stack([a.box, b.box]).reshape(2, 2, 2)
    centres, sizes = corners.mean(1), np.abs(corners[:, 1] - corners[:, 0])
    offset = centres[0] - centres[1]
    slack = np.float32(POSITION_THRESHOLD) * sizes.sum(0)
    left_over = np.maximum(np.abs(offset) - slack, 0) * np.sign(offset)
    if (np.abs(left_over) < NEARLY_NONE).all():
        return set()
    x, y = left_over / np.linalg.norm(offset)
    held = {"left of": x < -HALF, "right of": x > HALF, "above": y < -HALF, "below": y > HALF}
    return {relation for relation, holds in held.items() if holds}
