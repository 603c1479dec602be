"""Images as the official tool keeps them: 00012/metadata.jsonl, and 00012/samples/00003.png beside it.

Names are numbers of any length: its generator writes five digits, its README shows four.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lpobench.data.geneval.demands import Demands, parse, tags_of
from lpobench.data.geneval.prompts import demands_of
from lpobench.plugin import MissingAsset, UserError

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import UInt8

    from lpobench.types import Prompt

METADATA, SAMPLES = "metadata.jsonl", "samples"
PLACE, SAMPLE = re.compile(r"\d+"), re.compile(r"(\d+)\.png")


@dataclass(frozen=True)
class Sample:
    """One image of a folder."""

    file: str
    """Path below the folder."""
    number: int
    """Which image of its prompt."""
    demands: Demands

    @property
    def row(self) -> tuple[str, dict[str, str]]:
        """Its prompt and tags."""
        return self.demands.prompt, tags_of(self.demands)


def is_layout(root: Path) -> bool:
    """Does some numbered folder in it hold metadata?"""
    return any((place / METADATA).is_file() for place in _places(root))


def read_folder(root: Path) -> list[Sample]:
    """Every image by its prompt's number, then its own. Raises UserError, one line, for what is not the layout.

    A prompt without images is passed over, as the official tool does: what is made so far can be judged.
    """
    if not root.is_dir():
        raise MissingAsset(f"no folder {root}")
    found = [sample for place in _places(root) for sample in _samples(root, place)]
    if not found:
        raise UserError(
            f"no image in {root}; GenEval's folders are 00000/{METADATA} and 00000/samples/00000.png"
        )
    return found


def place_samples(root: Path, prompts: Sequence[Prompt]) -> None:
    """Write the metadata of every prompt, in order, and an empty folder for its images."""
    lines = [demands_of(prompt).line() for prompt in prompts]
    for place, line in enumerate(lines):
        folder = root / f"{place:05d}"
        (folder / SAMPLES).mkdir(parents=True, exist_ok=True)
        (folder / METADATA).write_text(line, encoding="utf-8")


def export(root: Path, prompts: Sequence[Prompt], images: Mapping[tuple[str, int], Path]) -> None:
    """Copy PNG files, by prompt id and number, to where the official tool looks for them. Raises UserError, before
    anything is written, for a prompt that GenEval knows no demands for.
    """
    place_samples(root, prompts)
    places = {prompt.id: place for place, prompt in enumerate(prompts)}
    for (prompt_id, number), file in images.items():
        write_sample(root, places[prompt_id], number, file)


def sample_path(root: Path, place: int, number: int) -> Path:
    """Where image `number` of prompt `place` lies."""
    return root / f"{place:05d}" / SAMPLES / f"{number:05d}.png"


def write_sample(root: Path, place: int, number: int, image: UInt8[np.ndarray, "H W 3"] | Path) -> Path:
    """Put pixels, or a copy of a PNG file, where the official tool looks for it."""
    path = sample_path(root, place, number)
    draft = path.with_name(f".{path.name}.part")
    if isinstance(image, Path):
        shutil.copyfile(image, draft)
    else:
        from PIL import Image

        Image.fromarray(image).save(draft, "PNG")
    draft.replace(path)
    return path


def _places(root: Path) -> list[Path]:
    places = [path for path in root.iterdir() if PLACE.fullmatch(path.name) and path.is_dir()]
    return sorted(places, key=lambda path: (int(path.name), path.name))


def _samples(root: Path, place: Path) -> list[Sample]:
    folder = place / SAMPLES
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    named = [
        (int(match[1]), file) for file in files if (match := SAMPLE.fullmatch(file.name)) and file.is_file()
    ]
    if not named:
        return []
    numbers = [number for number, _ in named]
    if len(set(numbers)) < len(numbers):
        twice = next(number for number in numbers if numbers.count(number) > 1)
        raise UserError(f"{folder} has two images with the number {twice}; keep one")
    demands = _metadata(place / METADATA)
    return [Sample(file.relative_to(root).as_posix(), number, demands) for number, file in sorted(named)]


def _metadata(path: Path) -> Demands:
    try:
        return parse(path.read_text(encoding="utf-8-sig").strip())
    except FileNotFoundError:
        raise UserError(f"no {path}; GenEval keeps a prompt's metadata beside its samples") from None
    except (OSError, UnicodeDecodeError) as problem:
        raise UserError(f"cannot read {path}: {problem}") from None
    except UserError as problem:
        raise UserError(f"{path}: {problem}") from None
