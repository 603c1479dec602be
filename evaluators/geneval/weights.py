"""The detector's and CLIP's weights, from disk. mmdet's checkpoint is read without running its pickle."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import torch
from transformers import Mask2FormerForUniversalSegmentation

from evaluators._clip.tower import Tower, tower
from evaluators._files import quiet
from evaluators.geneval.keys import config_of, renamed
from lpobench.data.geneval import NAMES
from lpobench.plugin import UserError
from lpobench.weights import read_tensors, told

MARK = "converted.json"
"""In a converted folder: the name and hash of the file it was made of."""
NOT_READ = re.compile(r"^criterion\.|\.swin\.layernorm\.")
"""Parameters that finding objects does not use."""


def convert(file: Path, folder: Path) -> None:
    """Write `folder` of mmdet's checkpoint: config.json, safetensors, and the mark, which is last."""
    model = _official(file)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK).unlink(missing_ok=True)
    with quiet():
        model.save_pretrained(folder)
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    mark = {"converted_from": file.name, "sha256": digest}
    (folder / MARK).write_text(json.dumps(mark, indent=1) + "\n", encoding="utf-8")


def read_converted(place: Path) -> Mask2FormerForUniversalSegmentation:
    """OpenMMLab's detector: its own file, or what `convert` made of it. CPU, float32."""
    if place.is_file():
        return _official(place)
    if not (place / MARK).is_file():
        raise UserError(
            f"{place} is no converted detector (no {MARK}): `lpobench convert geneval-detector FILE --out FOLDER` "
            "makes one; other Mask2Formers are for the evaluator geneval_fair"
        )
    return read_own(place)


def read_own(folder: Path) -> Mask2FormerForUniversalSegmentation:
    """A Mask2Former in Hugging Face's layout that knows COCO's 80 classes. CPU, float32."""
    return _load(folder, folder, local_files_only=True)


def read_clip(folder: Path, device: torch.device) -> Tower:
    """OpenAI's CLIP in float32, whose activation is QuickGELU. Raises UserError for another."""
    clip = tower(folder, torch.float32, device)
    config = clip.model.config
    if others := {part.hidden_act for part in (config.text_config, config.vision_config)} - {"quick_gelu"}:
        raise UserError(
            f"{folder} is a CLIP with {others.pop()}; colours are named by OpenAI's ViT-L/14, whose activation is "
            "quick_gelu"
        )
    return clip


def _official(file: Path) -> Mask2FormerForUniversalSegmentation:
    weights = read_tensors(file)
    try:
        config, new = config_of(weights), renamed(weights)
    except KeyError as error:
        raise UserError(
            f"{file} is no Mask2Former with a Swin backbone of mmdet 2.x: {error.args[0]}"
        ) from None
    return _load(file, None, config=config, state_dict=new)


def _load(place: Path, folder: Path | None, **source: object) -> Mask2FormerForUniversalSegmentation:
    """Raises UserError where a weight is not there or has another size: it would be a random one."""
    with told(place), quiet():
        model, found = Mask2FormerForUniversalSegmentation.from_pretrained(
            folder, output_loading_info=True, ignore_mismatched_sizes=True, **source
        )
    lost = [name for name in sorted(found["missing_keys"]) if not NOT_READ.search(name)]
    if lost := [*lost, *(name for name, *_ in sorted(found["mismatched_keys"]))]:
        raise UserError(f"{place} does not fit its architecture: {lost[0]} is missing or has another size")
    if model.config.num_labels != len(NAMES):
        raise UserError(
            f"{place} knows {model.config.num_labels} classes; GenEval's detector knows COCO's 80"
        )
    return model
