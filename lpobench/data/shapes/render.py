"""Drawing scenes: 64 x 64 anti-aliased shapes, from signed distances, on varied pale or dark backgrounds."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from lpobench.data.shapes.scene import COLORS, Relation, Scene

SIDE = 64
HUES = {"red": 0.0, "orange": 0.083, "yellow": 0.158, "green": 0.36, "blue": 0.61, "purple": 0.80}
RADII = {1: (11, 15), 2: (9, 13), 3: (8.5, 11), 4: (8, 10)}
SIZED_RADII = {"small": (8, 10), "large": (17, 21)}
GAP = 4.0
ROWS, COLUMNS = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32) + 0.5


@dataclass(frozen=True)
class Placed:
    """A shape with everything decided: color, centre and radius in pixels."""

    shape: str
    color: str
    x: float
    y: float
    radius: float


def signed_distance(shape: str, x: ndarray, y: ndarray, radius: float) -> ndarray:
    """Distance in pixels to a shape's outline at offsets x, y from its centre, negative inside; y points down.

    Radii are scaled so that all shapes of one radius look equally large.
    """
    if shape == "circle":
        return np.hypot(x, y) - 0.95 * radius
    if shape == "square":
        return np.maximum(abs(x), abs(y)) - 0.85 * radius
    if shape == "triangle":
        inner = 0.6 * radius
        return np.maximum(y - inner, 0.866025 * abs(x) - 0.5 * y - inner)
    return _star_distance(x, y, 1.15 * radius)


def _star_distance(x: ndarray, y: ndarray, outer: float, sharpness: float = 0.47) -> ndarray:
    """Five-pointed star: fold the plane onto one edge of one arm, then measure to that edge."""
    x, y = abs(x), -y
    for axis_x, axis_y in ((0.809017, -0.587785), (-0.809017, -0.587785)):
        fold = 2 * np.maximum(axis_x * x + axis_y * y, 0)
        x, y = x - fold * axis_x, y - fold * axis_y
    x, y = abs(x), y - outer
    edge_x, edge_y = sharpness * 0.587785, sharpness * 0.809017 - 1
    along = np.clip((x * edge_x + y * edge_y) / (edge_x**2 + edge_y**2), 0, outer)
    return np.hypot(x - edge_x * along, y - edge_y * along) * np.sign(y * edge_x - x * edge_y)


def related(
    first: tuple[float, float], second: tuple[float, float], relation: Relation, margin: float, slope: float
) -> bool:
    """Does the first centre stand in the relation to the second, by `margin` pixels and clearly along that axis?"""
    dx, dy = second[0] - first[0], second[1] - first[1]
    along = {"left of": dx, "right of": -dx, "above": dy, "below": -dy}[relation]
    across = dy if relation in ("left of", "right of") else dx
    return along > margin and along > slope * abs(across)


def place(scene: Scene, rng: np.random.Generator) -> list[Placed]:
    """A random layout of a scene: inside the frame, no overlap, relation kept, unnamed colors drawn."""
    low, high = SIZED_RADII[scene.size] if scene.size else RADII[len(scene.things)]
    free = COLORS[rng.integers(len(COLORS))]
    while True:
        common = rng.uniform(low, high)
        placed = []
        for thing in scene.things:
            radius = float(np.clip(common * rng.uniform(0.93, 1.07), low, high))
            color = thing.color or (free if scene.task == "counting" else COLORS[rng.integers(len(COLORS))])
            x, y = rng.uniform(1.1 * radius + 1, SIDE - 1.1 * radius - 1, size=2)
            placed.append(Placed(thing.shape, color, float(x), float(y), radius))
        apart = all(
            math.hypot(a.x - b.x, a.y - b.y) > a.radius + b.radius + GAP
            for i, a in enumerate(placed)
            for b in placed[:i]
        )
        if apart and (scene.relation is None or _keeps(placed, scene.relation)):
            return placed


def _keeps(placed: list[Placed], relation: Relation) -> bool:
    first, second = placed
    return related((first.x, first.y), (second.x, second.y), relation, margin=12, slope=1.2)


def hsv(hue: float, saturation: float, value: float) -> Float[ndarray, "3"]:
    """RGB in [0, 1]."""
    k = (np.array([5.0, 3.0, 1.0]) + 6 * hue) % 6
    return value - value * saturation * np.clip(np.minimum(k, 4 - k), 0, 1)


def _background(rng: np.random.Generator) -> Float[ndarray, "64 64 3"]:
    """Flat, linear or radial shade of a nearly grey tint, light more often than dark."""
    value = rng.uniform(0.6, 1.0) if rng.random() < 0.7 else rng.uniform(0.08, 0.35)
    tint = hsv(rng.random(), rng.uniform(0, 0.12), value)
    kind, depth, angle = rng.integers(3), rng.uniform(0.05, 0.2), rng.uniform(0, 2 * math.pi)
    across, down = (COLUMNS - SIDE / 2) / SIDE, (ROWS - SIDE / 2) / SIDE
    shade = (
        np.zeros_like(across),
        across * math.cos(angle) + down * math.sin(angle),
        np.hypot(across, down) - 0.4,
    )[kind]
    return tint + depth * shade[..., None]


def render(placed: list[Placed], rng: np.random.Generator) -> Float[ndarray, "64 64 3"]:
    """An image in [0, 1] of placed shapes."""
    image = _background(rng)
    softness = rng.choice([1.0, 1.0, 1.5, 2.5])
    for item in placed:
        fill = hsv(
            HUES[item.color] + rng.uniform(-0.012, 0.012), rng.uniform(0.65, 1.0), rng.uniform(0.65, 1.0)
        )
        turn = rng.uniform(-0.1, 0.1)
        x, y = COLUMNS - item.x, ROWS - item.y
        x, y = math.cos(turn) * x + math.sin(turn) * y, math.cos(turn) * y - math.sin(turn) * x
        cover = np.clip(0.5 - signed_distance(item.shape, x, y, item.radius) / softness, 0, 1)[..., None]
        image = image * (1 - cover) + fill * cover
    return np.clip(image, 0, 1).astype(np.float32)


def draw(scene: Scene, rng: np.random.Generator) -> Float[ndarray, "64 64 3"]:
    """A random picture of a scene."""
    return render(place(scene, rng), rng)
