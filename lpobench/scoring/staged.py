"""Two of the three stages of an evaluation: images are generated, then scored, each only where it is missing.

Between the stages there are files (pictures.py, ledger.py). Work is cut into batches by its own order, whatever is here
already, and a batch is written whole: killed and started again, it makes the same batches, and so the same bytes.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
import torch
from jaxtyping import UInt8

from lpobench.data.pairs.autoencoder import as_images
from lpobench.data.pairs.prefetch import ahead
from lpobench.launch.ranks import part
from lpobench.progress import Advance
from lpobench.scoring.evaluate import LABELS, score_images, to_bytes
from lpobench.scoring.generate import Painter
from lpobench.scoring.ledger import Ledger
from lpobench.scoring.pictures import Key, Pictures, Wanted, key_of
from lpobench.signals import Preempted, StopFlag
from lpobench.types import Evaluator, Prompt

CHUNK = 64
"""Images whose scores are written together."""
T = TypeVar("T")


@dataclass(frozen=True)
class Stage:
    """Where a process writes, whom it tells, and who may stop it."""

    pictures: Pictures
    scratch: Path
    stop: StopFlag
    advance: Advance = lambda count=1, note="": None
    say: Callable[[str], None] = lambda line: None

    def paint(self, painter: Painter, wanted: Sequence[Wanted], here: Mapping[Key, str]) -> dict[Key, str]:
        """Make the images that are not `here`; the hashes of all that are wanted. Raises Preempted."""
        found, clock = dict(here), _Clock()
        for batch in chunks(wanted, painter.settings.batch_size):
            missing = [image for image in batch if key_of(image) not in found]
            if missing:
                self._stop_if_asked()
                # one that was lost is made again among the same, since kernels round differently for another batch
                todo = batch if self.pictures.were_made(batch) else missing
                made = [to_bytes(some.images) for some in painter.paint(todo)]
                found |= self.pictures.add(todo, np.concatenate(made), self.scratch)
                self.advance(len(missing), clock.rate(len(todo)))
        return found

    def score(
        self,
        ledger: Ledger,
        evaluator: Evaluator,
        wanted: Sequence[Wanted],
        hashes: Mapping[Key, str],
        batch_size: int,
    ) -> None:
        """Score the images that the ledger does not know. Raises Preempted, NotFinite."""
        ledger.begin(self.scratch)
        known, clock = ledger.known(self.say), _Clock()
        todo = [[i for i in chunk if _found(i, hashes) not in known] for chunk in chunks(wanted, CHUNK)]
        batches = [batch for chunk in todo for batch in chunks(chunk, batch_size)]
        stream = ahead(lambda: (self._read(batch, hashes) for batch in batches), 4)
        for chunk in filter(None, todo):
            self._stop_if_asked()
            rows = []
            for batch in chunks(chunk, batch_size):
                images, prompts = as_images(next(stream)), [prompt for prompt, _ in batch]
                with torch.no_grad():
                    scores = score_images(ledger.name, evaluator, images, prompts).to_numpy()
                keys = [(_found(image, hashes), image[1]) for image in batch]
                rows += [(*key, row.tolist()) for key, row in zip(keys, scores, strict=True)]
            ledger.add(rows, self.scratch)
            self.advance(len(chunk), clock.rate(len(chunk)))
        stream.close()

    def _read(self, batch: Sequence[Wanted], hashes: Mapping[Key, str]) -> UInt8[np.ndarray, "n H W 3"]:
        keys = [key_of(image) for image in batch]
        return np.stack([self.pictures.read(key, hashes[key]) for key in keys])

    def _stop_if_asked(self) -> None:
        if self.stop.requested:
            raise Preempted(f"{self.stop.reason}: stopped; the same command goes on from there")


def images_of(prompts: Sequence[Prompt], indices: Sequence[int]) -> list[Wanted]:
    """Every image by prompt and number."""
    return [(prompt, index) for prompt in prompts for index in indices]


def shared(prompts: Sequence[Prompt], index: int, count: int) -> list[Prompt]:
    """Share `index` of `count`: prompts in the order of their ids' hashes are cut into equal pieces."""
    ordered = sorted(prompts, key=lambda prompt: hashlib.blake2b(prompt.id.encode()).digest())
    return ordered[part(len(ordered), index, count)]


def scores_of(
    ledger: Ledger, wanted: Sequence[Wanted], hashes: Mapping[Key, str]
) -> tuple[pd.DataFrame | None, int]:
    """The ledger's metrics, a row per image wanted, or None; and of how many they are missing."""
    known = ledger.known()
    rows = [known.get((hashes.get(key_of(image), ""), image[0].id)) for image in wanted]
    if missing := sum(row is None for row in rows):
        return None, missing
    return pd.DataFrame(rows, columns=list(ledger.metrics), dtype=float), 0


def labels(wanted: Sequence[Wanted]) -> pd.DataFrame:
    """What a row of scores is about: prompt_id, image, prompt, task."""
    rows = [(prompt.id, index, prompt.text, prompt.tags.get("task", "")) for prompt, index in wanted]
    return pd.DataFrame(rows, columns=list(LABELS[1:]))


def chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _found(image: Wanted, hashes: Mapping[Key, str]) -> tuple[str, str]:
    return hashes[key_of(image)], image[0].id


class _Clock:
    """Images per second since it was made."""

    def __init__(self) -> None:
        self.began, self.done = time.monotonic(), 0

    def rate(self, count: int) -> str:
        self.done += count
        return f"{self.done / max(time.monotonic() - self.began, 1e-6):.3g} images/s"
