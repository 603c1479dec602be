"""The grammar of shapes world: what a prompt can say, in GenEval's six tasks, and which prompts are held out."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

Task = Literal["single_object", "two_object", "counting", "colors", "position", "color_attr"]
Relation = Literal["left of", "right of", "above", "below"]
Size = Literal["small", "large"]
Split = Literal["train", "eval"]

TASKS: tuple[Task, ...] = get_args(Task)
SHAPES = ("circle", "square", "triangle", "star")
COLORS = ("red", "orange", "yellow", "green", "blue", "purple")
COUNTS = {2: "two", 3: "three", 4: "four"}
RELATIONS: tuple[Relation, ...] = get_args(Relation)
SIZES: tuple[Size, ...] = get_args(Size)

MIRRORED = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
TRAIN_SHARES: dict[Task, float] = dict(zip(TASKS, (0.06, 0.08, 0.2, 0.22, 0.24, 0.2), strict=True))


@dataclass(frozen=True)
class Thing:
    """One object a prompt names; color None means any color."""

    shape: str
    color: str | None = None

    @property
    def phrase(self) -> str:
        return f"{self.color} {self.shape}" if self.color else self.shape


@dataclass(frozen=True)
class Scene:
    """What one prompt asks for."""

    task: Task
    things: tuple[Thing, ...]
    size: Size | None = None
    relation: Relation | None = None

    @property
    def text(self) -> str:
        """The prompt."""
        first = self.things[0]
        if self.task == "counting":
            return f"{COUNTS[len(self.things)]} {first.phrase}s"
        if len(self.things) == 1:
            return f"a {self.size + ' ' if self.size else ''}{first.phrase}"
        return f"a {first.phrase} {self.relation or 'and'} a {self.things[1].phrase}"

    @property
    def held_out(self) -> bool:
        """True for one attribute combination in five: the sum of its attribute indices is a multiple of five.

        The rule ignores the order of the objects, so the same scene told the other way round ("a star above a
        circle", "a circle below a star") falls on the same side.
        """
        index = sum(
            SHAPES.index(o.shape) + (1 + COLORS.index(o.color) if o.color else 0) for o in self.things
        )
        size = 1 + SIZES.index(self.size) if self.size else 0
        axis = 1 + RELATIONS.index(self.relation) // 2 if self.relation else 0
        return (index + size + axis) % 5 == 0


def _draw(task: Task, rng: np.random.Generator) -> Scene:
    """One scene of a task, attributes uniform."""
    pick = lambda options: options[rng.integers(len(options))]
    if task == "single_object":
        return Scene(task, (Thing(pick(SHAPES)),), size=pick((None, *SIZES)))
    if task == "colors":
        return Scene(task, (Thing(pick(SHAPES), pick(COLORS)),), size=pick((None, *SIZES)))
    if task == "counting":
        return Scene(task, (Thing(pick(SHAPES), pick((None, *COLORS))),) * int(rng.integers(2, 5)))
    shapes = [SHAPES[i] for i in rng.permutation(len(SHAPES))[:2]]
    colored = task == "color_attr" or (task == "position" and rng.random() < 0.7)
    colors = [COLORS[i] for i in rng.permutation(len(COLORS))[:2]] if colored else [None, None]
    things = tuple(Thing(shape, color) for shape, color in zip(shapes, colors, strict=True))
    return Scene(task, things, relation=pick(RELATIONS) if task == "position" else None)


def sample_scene(split: Split, rng: np.random.Generator, task: Task | None = None) -> Scene:
    """A random scene of a split, of the given task or of one drawn with the training shares."""
    task = task or rng.choice(TASKS, p=[TRAIN_SHARES[name] for name in TASKS])
    while True:
        scene = _draw(task, rng)
        if scene.held_out == (split == "eval"):
            return scene


def sample_scenes(split: Split, num: int, rng: np.random.Generator) -> list[Scene]:
    """Random scenes: "train" draws tasks with the training shares, "eval" takes all six in turn."""
    return [sample_scene(split, rng, TASKS[i % len(TASKS)] if split == "eval" else None) for i in range(num)]


def parse(text: str) -> Scene:
    """The scene a prompt describes; the inverse of `Scene.text`. Raises ValueError on any other text."""
    scene = _parse(text.split())
    if scene is None or scene.text != text:
        raise ValueError(f'not a shapes-world prompt: "{text}"')
    return scene


def _parse(words: list[str]) -> Scene | None:
    counts = {word: number for number, word in COUNTS.items()}
    if words and words[0] in counts:
        thing = _thing([*words[1:-1], words[-1].removesuffix("s")])
        return thing and Scene("counting", (thing,) * counts[words[0]])
    joint = " ".join(words)
    for relation in (*RELATIONS, None):
        left, found, right = joint.partition(f" {relation or 'and'} a ")
        if found and left.startswith("a "):
            things = _thing(left.split()[1:]), _thing(right.split())
            task = "position" if relation else "color_attr" if things[0] and things[0].color else "two_object"
            return Scene(task, things, relation=relation) if all(things) else None
    size = words[1] if len(words) > 2 and words[1] in SIZES else None
    thing = _thing(words[2 if size else 1 :])
    return thing and Scene("colors" if thing.color else "single_object", (thing,), size=size)


def _thing(words: list[str]) -> Thing | None:
    if not words or words[-1] not in SHAPES or len(words) > 2 or (len(words) == 2 and words[0] not in COLORS):
        return None
    return Thing(words[-1], words[0] if len(words) == 2 else None)
