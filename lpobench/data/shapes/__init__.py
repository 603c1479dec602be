"""Shapes world: procedural pictures, prompts from a grammar, and a judge that knows the truth."""

from __future__ import annotations

import numpy as np

from lpobench.data.shapes.scene import Split, sample_scenes
from lpobench.types import Prompt


def prompts(split: Split, num: int, seed: int) -> list[Prompt]:
    """Random prompts of a split. "train" draws tasks with the training shares, "eval" gives all six equally many.

    Held-out attribute combinations are few for the short tasks, so evaluation texts repeat: ids do not, and each id
    has its own noise.
    """
    scenes = sample_scenes(split, num, np.random.default_rng(seed))
    return [
        Prompt(scene.text, f"shapes-{split}-{seed}-{i:05d}", {"task": scene.task})
        for i, scene in enumerate(scenes)
    ]
