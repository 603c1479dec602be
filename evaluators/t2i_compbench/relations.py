"""Two objects and how they stand to each other, in the plane and in depth: rules on detections.

    both found    0.25 (score of the first + score of the second) + 0.5 position
    one found     0.25 its score
    none          0

In the plane a total below 0.5 counts as 0. The official scripts' oddities are kept: "on top of" is a relation that no
position satisfies; in depth a label that only contains the object's name is taken for it, an IoU of exactly 0.5 gives
nothing, and the depth map, whose rows are y, is indexed by x first.
"""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from evaluators.t2i_compbench.detections import Box, Detections, iou

BESIDE = ("next to", "on side of", "near")
NEAR = 150.0
"""Pixels of the frame between centres, in x or in y."""
APART, DEEP = 0.1, 0.5
"""IoU up to which objects stand beside each other, and from which one stands before the other."""
LOWEST = 0.5
AXES = {
    "on the left of": (0, 1),
    "on the right of": (0, -1),
    "on the top of": (1, 1),
    "on the bottom of": (1, -1),
}
"""Axis, and the sign of the way from the first to the second."""
Position = Callable[[Box, Box], float]


def planar_score(objects: tuple[str, ...], relation: str, found: Detections) -> float:
    """2D: 0, or between 0.5 and 1. `objects` may be empty: then nothing can be found."""
    places = [found.labels.index(name) if name in found.labels else None for name in objects]
    score = _score(places, found, lambda a, b: planar(relation, a, b))
    return score if score >= LOWEST else 0.0


def depth_score(
    objects: tuple[str, ...], relation: str, found: Detections, depth: Float[Tensor, "H W"]
) -> float:
    """3D: between 0 and 1. `depth` is of the frame, larger is nearer."""
    return _score(_scan(objects, found.labels), found, lambda a, b: deep(relation, a, b, depth))


def planar(relation: str, a: Box, b: Box) -> float:
    """How well the first stands so to the second, 0 to 1."""
    way = tuple((b[i] + b[i + 2]) / 2 - (a[i] + a[i + 2]) / 2 for i in (0, 1))
    lengths = tuple(abs(length) for length in way)
    if relation in BESIDE:
        return 1.0 if min(lengths) < NEAR else NEAR / max(lengths)
    if relation not in AXES:
        return 0.0
    axis, sign = AXES[relation]
    if sign * way[axis] <= 0 or lengths[axis] <= lengths[1 - axis]:
        return 0.0
    common = iou(a, b)
    return 1.0 if common < APART else APART / common


def deep(relation: str, a: Box, b: Box, depth: Float[Tensor, "H W"]) -> float:
    """How well the first stands before or behind the second, 0 to 1; 0 where they do not overlap."""
    common, nearer = iou(a, b), _mean(depth, a) - _mean(depth, b)
    stands = nearer > 0 if relation == "in front of" else nearer < 0 and relation in ("behind", "hidden")
    return min(common / DEEP, 1.0) if stands and common != DEEP else 0.0


def _mean(depth: Float[Tensor, "H W"], box: Box) -> float:
    """Over the box with x and y exchanged; nan, which is neither nearer nor farther, where that holds no pixel."""
    x, y, right, bottom = (int(side) for side in box)
    return depth[x:right, y:bottom].mean().item()


def _scan(objects: tuple[str, ...], labels: tuple[str, ...]) -> list[int | None]:
    """Where each object is, by part of its label: going through the labels until all are met, the last place seen.

    Of an object that is alone, the first.
    """
    met: dict[str, int] = {}
    for place, label in enumerate(labels):
        met |= {name: place for name in objects if name in label}
        if len(met) == len(set(objects)):
            return [met[name] for name in objects]
    return [next((place for place, label in enumerate(labels) if name in label), None) for name in objects]


def _score(places: list[int | None], found: Detections, position: Position) -> float:
    """Of two objects, by where they are among what was found."""
    if None not in places and places:
        first, second = places
        held = position(found.boxes[first], found.boxes[second])
        return 0.25 * found.scores[first] + 0.25 * found.scores[second] + held / 2
    return next((0.25 * found.scores[place] for place in places if place is not None), 0.0)
