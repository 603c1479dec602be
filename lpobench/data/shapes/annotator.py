"""Who labels pairs of shapes world: the judge's preference is the truth, seen through noise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lpobench.data.shapes.judge import Judgement
from lpobench.data.shapes.scene import COLORS, COUNTS, RELATIONS, SHAPES, SIZES, Scene

SHARPNESS, TIE_BELOW = 5.0, 0.08
"""Annotator: sees the difference in preference plus logistic noise of scale 1 / SHARPNESS, calls a tie below."""
GAPS = {"aesthetic_gap": "aesthetics", "clipscore_gap": "words", "vqascore_gap": "alignment"}
"""The judge's stand-ins for the three scorers of MPCF."""


def altered(scene: Scene, rng: np.random.Generator) -> Scene:
    """The scene with one demand broken: a shape, color, count, size or relation."""

    def other(options, old):
        rest = [option for option in options if option != old]
        return rest[rng.integers(len(rest))]

    breakable = {
        "shape": True,
        "color": scene.things[0].color is not None,
        "count": scene.task == "counting",
        "size": scene.size is not None,
        "relation": scene.relation is not None,
    }
    match other([name for name, there in breakable.items() if there], None):
        case "relation":
            return replace(scene, relation=other(RELATIONS, scene.relation))
        case "size":
            return replace(scene, size=other(SIZES, scene.size))
        case "count":
            return replace(scene, things=scene.things[:1] * other(COUNTS, len(scene.things)))
        case attribute:
            which = int(rng.integers(len(scene.things)))
            old = scene.things[which]
            value = other({"shape": SHAPES, "color": COLORS}[attribute], getattr(old, attribute))
            new = replace(old, **{attribute: value})
            all_alike = scene.task == "counting"
            return replace(
                scene,
                things=tuple(
                    new if all_alike or i == which else thing for i, thing in enumerate(scene.things)
                ),
            )


def labelled(first: Judgement, second: Judgement, rng: np.random.Generator) -> dict:
    """The annotator's label, the winner's leads (for a tie, the distances) and the truth."""
    seen = first.preference - second.preference + rng.logistic(scale=1 / SHARPNESS)
    tie = abs(seen) < TIE_BELOW
    label = 0.5 if tie else float(seen > 0)
    leads = {name: getattr(first, part) - getattr(second, part) for name, part in GAPS.items()}
    leads = {name: abs(lead) if tie else lead if label == 1 else -lead for name, lead in leads.items()}
    truth = {"true_preference_0": first.preference, "true_preference_1": second.preference}
    return {"label_0": label, "label_1": 1 - label, **{k: round(v, 4) for k, v in (leads | truth).items()}}
