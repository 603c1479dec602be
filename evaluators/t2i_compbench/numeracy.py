"""How many of each object: rules on detections.

    every object has the same share of the score: half of it where the object is found, half where its number is right

Detections of one label that cover each other by more than 0.9 are one object. An object that is no label gives its
name to every label that contains it, for the objects after it too: the official script does so, a car is then also
found in "race car", and in "carrot".
"""

from __future__ import annotations

from evaluators.t2i_compbench.detections import Box, Detections

SAME = 0.9
ALIASES = dict.fromkeys(("boy", "girl", "man", "woman"), "person")
ALIASES |= {"ship": "boat", "goldfish": "fish", "painting": "picture"}
"""What the detector calls them. The script's "telivision" for tv is never met."""


def number_score(objects: tuple[str, ...], counts: tuple[int, ...], found: Detections) -> float:
    """Between 0 and 1. There is at least one object."""
    labels, score, share = distinct(found), 0.0, 1.0 / len(objects)
    for name, wanted in zip(objects, counts, strict=True):
        name = ALIASES.get(name, name)
        if name not in labels:
            labels = [name if name in label else label for label in labels]
        if name in labels:
            score += 0.5 * share
            score += 0.5 * share if labels.count(name) == wanted else 0.0
    return score


def distinct(found: Detections) -> list[str]:
    """The labels of detections that are no repetition of a surer one."""
    kept: list[tuple[str, Box]] = []
    for label, box in zip(found.labels, found.boxes, strict=True):
        if not any(label == other and cover(box, earlier) for other, earlier in kept):
            kept.append((label, box))
    return [label for label, _ in kept]


def cover(a: Box, b: Box) -> bool:
    """Is the common area above 0.9 of either box, or of both together? A box includes its last pixel."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]) + 1)
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]) + 1)
    return width * height / min(_area(a), _area(b)) > SAME


def _area(box: Box) -> float:
    return (box[2] - box[0] + 1) * (box[3] - box[1] + 1)
