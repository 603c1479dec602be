"""GenEval's evaluator with small random weights in the released layouts: those of the golden numbers."""

from __future__ import annotations

from pathlib import Path

import made_geneval
import made_mask2former
import torch
from seeded import golden
from transformers import CLIPConfig, CLIPModel

from evaluators.geneval.settings import GenEval


def geneval(place: Path) -> GenEval:
    """Of mmdet's file detector.pth, the folder made of it, and a CLIP. Tests make `detector.SCALE` smaller."""
    shapes = made_mask2former.expanded(golden("geneval_detector")["shapes"], made_mask2former.SMALL)
    torch.save({"state_dict": made_mask2former.weights(shapes)}, place / "detector.pth")
    GenEval.convert(place / "detector.pth", place / "detector")
    return GenEval(detector=str(place / "detector"), clip=str(clip(place / "clip")))


def clip(folder: Path, activation: str = "quick_gelu") -> Path:
    """The made CLIP in transformers' layout."""
    config = CLIPConfig(**made_geneval.CLIP)
    for part in (config.text_config, config.vision_config):
        part.hidden_act = activation
    model = CLIPModel(config)
    lost, left = model.load_state_dict(made_geneval.clip_weights(), strict=False)
    assert (lost, left) == (["logit_scale"], [])
    model.save_pretrained(folder)
    return folder
