"""The judge of shapes world: finds the shapes in a picture, checks a prompt against them, and states a preference.

Rules only, no learning. `preference` is the truth that noisy labels are drawn from: a part for alignment and a part
for aesthetics, so that a reward model can be right about one and wrong about the other.
"""

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray
from scipy import ndimage

from lpobench.data.shapes.render import COLUMNS, HUES, ROWS, SIDE, related, signed_distance
from lpobench.data.shapes.scene import COLORS, SHAPES, Scene

MIN_CHROMA, MIN_AREA, MIN_IOU = 0.2, 40, 0.72
SMALL_BELOW, LARGE_ABOVE = 10.8, 15.8
ALIGNMENT_WEIGHT, AESTHETICS_WEIGHT = 3.0, 2.0


@dataclass(frozen=True)
class Found:
    """A shape seen in a picture. `iou` is its overlap with a perfect shape of the same area, `chroma` max - min RGB."""

    shape: str
    color: str
    x: float
    y: float
    radius: float
    iou: float
    chroma: float


@dataclass(frozen=True)
class Judgement:
    """Everything the judge says of one picture; all but `preference` in [0, 1]."""

    correct: bool
    """every check of the prompt holds"""
    alignment: float
    """mean of the prompt's checks, each graded"""
    words: float
    """how many of the named shapes and colors are there, whatever belongs to what (a bag-of-words view)"""
    aesthetics: float
    """mean of crisp shapes, vivid colors, balanced layout, calm background"""
    preference: float
    """ALIGNMENT_WEIGHT * alignment + AESTHETICS_WEIGHT * aesthetics"""


def judge(scene: Scene, image: Float[ndarray, "64 64 3"]) -> Judgement:
    """Judge one picture, RGB in [0, 1]."""
    found = find(image)
    checks = _checks(scene, found)
    alignment = float(np.mean(list(checks.values())))
    aesthetics = _aesthetics(image, found)
    return Judgement(
        correct=all(value == 1 for value in checks.values()),
        alignment=alignment,
        words=(checks["shape"] + checks["color"]) / 2,
        aesthetics=aesthetics,
        preference=ALIGNMENT_WEIGHT * alignment + AESTHETICS_WEIGHT * aesthetics,
    )


def find(image: Float[ndarray, "64 64 3"]) -> list[Found]:
    """The colored shapes of a picture; what fits no shape is a "blob"."""
    chroma = image.max(-1) - image.min(-1)
    labels, count = ndimage.label(chroma > MIN_CHROMA)
    found = []
    for i in range(1, count + 1):
        for region in _split_by_hue(image, labels == i):
            region = _core(chroma, region)
            if region.sum() >= MIN_AREA:
                found.append(_describe(image, chroma, region))
    return found


def _hue_class(image: Float[ndarray, "n 3"]) -> ndarray:
    """Index into COLORS of the nearest hue, per pixel."""
    red, green, blue = image.T
    top, spread = image.max(1), np.maximum(image.max(1) - image.min(1), 1e-6)
    hue = np.select(
        [top == red, top == green],
        [(green - blue) / spread % 6, (blue - red) / spread + 2],
        (red - green) / spread + 4,
    )
    distance = abs(hue[:, None] / 6 - np.array([HUES[name] for name in COLORS]))
    return np.minimum(distance, 1 - distance).argmin(1)


def _split_by_hue(image: ndarray, region: Bool[ndarray, "64 64"]) -> list[Bool[ndarray, "64 64"]]:
    """One region per color that fills a real part of a connected area: shapes that touch are told apart by color."""
    classes = np.full(region.shape, -1)
    classes[region] = _hue_class(image[region])
    areas = np.bincount(classes[region], minlength=len(COLORS))
    large = np.flatnonzero(areas >= max(MIN_AREA, 0.25 * region.sum()))
    return [region] if len(large) < 2 else [classes == c for c in large]


def _core(chroma: ndarray, region: Bool[ndarray, "64 64"]) -> Bool[ndarray, "64 64"]:
    """The largest connected part above half the region's own chroma: its outline at half height, holes filled."""
    solid = region & (chroma > 0.5 * np.percentile(chroma[region], 85))
    labels, count = ndimage.label(solid)
    if count > 1:
        solid = labels == 1 + ndimage.sum_labels(solid, labels, np.arange(1, count + 1)).argmax()
    return ndimage.binary_fill_holes(solid)


@cache
def _area_per_radius(shape: str) -> float:
    """Area of a shape of radius 1, measured on a large one."""
    return float((signed_distance(shape, COLUMNS - SIDE / 2, ROWS - SIDE / 2, 24.0) < 0).sum()) / 24.0**2


def _describe(image: ndarray, chroma: ndarray, region: Bool[ndarray, "64 64"]) -> Found:
    area, x, y = int(region.sum()), float(COLUMNS[region].mean()), float(ROWS[region].mean())
    best_iou, best_shape, best_radius = 0.0, "blob", math.sqrt(area / math.pi)
    for shape in SHAPES:
        radius = math.sqrt(area / _area_per_radius(shape))
        for turn in (0.0,) if shape == "circle" else (-0.08, 0.0, 0.08):
            across, down = COLUMNS - x, ROWS - y
            across, down = (
                math.cos(turn) * across + math.sin(turn) * down,
                math.cos(turn) * down - math.sin(turn) * across,
            )
            perfect = signed_distance(shape, across, down, radius) < 0
            iou = (perfect & region).sum() / (perfect | region).sum()
            if iou > best_iou:
                best_iou, best_shape, best_radius = float(iou), shape, radius
    votes = np.bincount(_hue_class(image[region]), weights=chroma[region], minlength=len(COLORS))
    shape = best_shape if best_iou >= MIN_IOU else "blob"
    vividness = float(np.percentile(chroma[region], 85))
    return Found(shape, COLORS[votes.argmax()], x, y, best_radius, best_iou, vividness)


def _matched(wanted: list, got: list) -> float:
    """Share of a multiset found in another, 1 only when they are equal."""
    left = list(wanted)
    for item in got:
        if item in left:
            left.remove(item)
    return (len(wanted) - len(left)) / max(len(wanted), len(got))


def _checks(scene: Scene, found: list[Found]) -> dict[str, float]:
    """The prompt's demands, each in [0, 1], 1 when met."""
    things = scene.things
    checks = {
        "count": max(0.0, 1 - abs(len(found) - len(things)) / len(things)),
        "shape": _matched([o.shape for o in things], [o.shape for o in found]),
        "color": 1.0,
    }
    if things[0].color:
        checks["color"] = _matched([o.color for o in things], [o.color for o in found])
        checks["binding"] = _matched(
            [(o.shape, o.color) for o in things], [(o.shape, o.color) for o in found]
        )
    if scene.size:
        radius = max((o.radius for o in found), default=0.0)
        checks["size"] = float(0 < radius < SMALL_BELOW if scene.size == "small" else radius > LARGE_ABOVE)
    if scene.relation:
        first, second = (
            [o for o in found if o.shape == t.shape and t.color in (None, o.color)] for t in things
        )
        checks["relation"] = float(
            any(
                related((a.x, a.y), (b.x, b.y), scene.relation, margin=6, slope=1.0)
                for a in first
                for b in second
            )
        )
    return checks


def _aesthetics(image: ndarray, found: list[Found]) -> float:
    """Mean of four graded qualities; a picture without a shape has none of the first three."""
    background = image[(image.max(-1) - image.min(-1)) < MIN_CHROMA].mean(-1)
    calm = 1 - min(1.0, float(background.std()) / 0.12) if len(background) > 200 else 0.0
    if not found:
        return calm / 4
    ramp = lambda value, low, high: float(np.clip((value - low) / (high - low), 0, 1))
    crisp = ramp(np.mean([o.iou for o in found]), MIN_IOU, 0.97)
    vivid = ramp(np.mean([o.chroma for o in found]), 0.35, 0.95)
    areas = np.array([o.radius**2 for o in found])
    x, y = (np.average([getattr(o, axis) for o in found], weights=areas) for axis in ("x", "y"))
    balance = 1 - ramp(math.hypot(x - SIDE / 2, y - SIDE / 2), 0, 16)
    return (crisp + vivid + balance + calm) / 4
