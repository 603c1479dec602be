"""Evaluation in stages: images are generated, then scored, each only where it is missing; then there is a table.

Between the stages there are files (pictures.py, ledger.py). Work is cut into batches by its own order, whatever is here
already, and a batch is written whole: killed and started again, it makes the same batches, and so the same bytes.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from lpobench.data.pairs.autoencoder import as_images
from lpobench.data.pairs.prefetch import ahead
from lpobench.launch import ranks
from lpobench.plugin import Metric
from lpobench.progress import progress
from lpobench.scoring.evaluate import LABELS, metrics_by_column, score_images, to_bytes
from lpobench.scoring.generate import Painter
from lpobench.scoring.ledger import Ledger
from lpobench.scoring.pictures import Key, Pictures, Wanted, key_of
from lpobench.signals import Preempted, StopFlag
from lpobench.types import Evaluator, Prompt

CHUNK = 64
"""Images whose scores are written together."""
TOGETHER = 16
"""Images given to a scorer at once."""
T = TypeVar("T")


class Judge(Protocol):
    """Who scores: known before it is loaded."""

    @property
    def label(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def metrics(self) -> Mapping[str, Metric]: ...

    def facts(self) -> dict[str, Any]:
        """Its settings, as JSON has them."""
        ...

    def live(self, device: torch.device) -> AbstractContextManager[Evaluator]:
        """Loaded inside, given back at the end."""
        ...


@dataclass
class Share:
    """One process's share of the images of one model; `place` is its number among so many."""

    folder: Path
    prompts: Sequence[Prompt]
    """Those of all processes."""
    painted: range
    """The images made of each prompt, by number."""
    scored: range
    """The images scored of each prompt."""
    place: tuple[int, int]
    scratch: Path
    stop: StopFlag
    say: Callable[[str], None] = lambda line: None
    hashes: dict[Key, str] = field(default_factory=dict)
    """Of the images of this share, as far as they are here."""

    @property
    def pictures(self) -> Pictures:
        return Pictures(self.folder)

    @property
    def mine(self) -> list[Wanted]:
        return images_of(shared(self.prompts, *self.place), self.painted)

    @property
    def mine_scored(self) -> list[Wanted]:
        return images_of(shared(self.prompts, *self.place), self.scored)

    def ledger(self, judge: Judge) -> Ledger:
        return Ledger(self.folder, judge.label, judge.version, judge.facts(), judge.metrics)

    def look(self) -> int:
        """See which images are here; how many are not."""
        mine = self.mine
        self.hashes = self.pictures.present(mine)
        return len(mine) - len(self.hashes)

    def paint(self, painter: Painter, title: str) -> None:
        """Make the images that are not here. Raises Preempted."""
        clock, mine = _Clock(), self.mine
        with progress(len(mine) - len(self.hashes), title, enabled=ranks.is_main()) as advance:
            for batch in chunks(mine, painter.settings.batch_size):
                missing = [image for image in batch if key_of(image) not in self.hashes]
                if not missing:
                    continue
                self._stop_if_asked()
                # one that was lost is made again among the same: kernels round differently for another batch
                todo = batch if self.pictures.were_made(batch) else missing
                made = [to_bytes(some.images) for some in painter.paint(todo)]
                self.hashes |= self.pictures.add(todo, np.concatenate(made), self.scratch)
                advance(len(missing), clock.rate(len(todo)))

    def unscored(self, judge: Judge) -> int:
        """How many images of this share lack its scores."""
        return scores_of(self.ledger(judge), self.mine_scored, self.hashes)[1]

    def score(self, judge: Judge, evaluator: Evaluator, title: str, batch_size: int = TOGETHER) -> None:
        """Make the scores that are not here. Raises Preempted, NotFinite."""
        ledger, clock = self.ledger(judge), _Clock()
        ledger.begin(self.scratch)
        known = ledger.known(self.say)
        todo = [
            [i for i in chunk if self._found(i) not in known] for chunk in chunks(self.mine_scored, CHUNK)
        ]
        batches = [batch for chunk in todo for batch in chunks(chunk, batch_size)]
        total = sum(map(len, todo))
        with (
            closing(ahead(lambda: map(self._read, batches), 4)) as stream,
            progress(total, title, enabled=ranks.is_main()) as advance,
        ):
            for chunk in filter(None, todo):
                self._stop_if_asked()
                rows = []
                for batch in chunks(chunk, batch_size):
                    images, prompts = as_images(next(stream)), [prompt for prompt, _ in batch]
                    with torch.no_grad():
                        scores = score_images(ledger.name, evaluator, images, prompts).to_numpy()
                    keys = [(self._found(image), image[1]) for image in batch]
                    rows += [(*key, row.tolist()) for key, row in zip(keys, scores, strict=True)]
                ledger.add(rows, self.scratch)
                advance(len(chunk), clock.rate(len(chunk)))

    def first_image(self) -> Float[Tensor, "1 3 H W"]:
        """Of this share, in [0, 1]."""
        return as_images(self._read(self.mine_scored[:1]))

    def _read(self, batch: Sequence[Wanted]) -> UInt8[np.ndarray, "n H W 3"]:
        keys = [key_of(image) for image in batch]
        return np.stack([self.pictures.read(key, self.hashes[key]) for key in keys])

    def _found(self, image: Wanted) -> tuple[str, str]:
        return self.hashes[key_of(image)], image[0].id

    def _stop_if_asked(self) -> None:
        if self.stop.requested:
            raise Preempted(
                f"{self.stop.reason}: stopped between images; the same command goes on from there"
            )


def together(work: Callable[[], T]) -> T:
    """Do some work in every process; one that is asked to stop stops all, when each is done. Raises Preempted."""
    made, left = [], None
    try:
        made.append(work())
    except Preempted as preempted:
        left = str(preempted)
    if message := ranks.first(left):
        raise Preempted(message)
    return made[0]


def score_table(share: Share, judges: Sequence[Judge]) -> tuple[pd.DataFrame | None, dict[str, int]]:
    """Every image of every share in the order of the prompts: prompt_id, image, prompt, task, a column per metric.

    None while scores are missing, and of how many images, by judge.
    """
    wanted = images_of(share.prompts, share.scored)
    hashes = share.pictures.listed(wanted)
    found = {judge.label: scores_of(share.ledger(judge), wanted, hashes) for judge in judges}
    if missing := {label: count for label, (_, count) in found.items() if count}:
        return None, missing
    columns = metrics_by_column({judge.label: judge for judge in judges})
    values = pd.concat([table for table, _ in found.values()], axis=1).set_axis(list(columns), axis=1)
    return pd.concat([labels(wanted), values], axis=1), {}


def scores_of(
    ledger: Ledger, wanted: Sequence[Wanted], hashes: Mapping[Key, str]
) -> tuple[pd.DataFrame | None, int]:
    """The ledger's metrics, a row per image wanted, or None; and for how many images they are missing."""
    known = ledger.known()
    rows = [known.get((hashes.get(key_of(image), ""), image[0].id)) for image in wanted]
    if missing := sum(row is None for row in rows):
        return None, missing
    return pd.DataFrame(rows, columns=list(ledger.metrics), dtype=float), 0


def images_of(prompts: Sequence[Prompt], numbers: Sequence[int]) -> list[Wanted]:
    """Every image by prompt and number."""
    return [(prompt, number) for prompt in prompts for number in numbers]


def shared(prompts: Sequence[Prompt], index: int, count: int) -> list[Prompt]:
    """Share `index` of `count`: prompts in the order of their ids' hashes are cut into equal pieces."""
    ordered = sorted(prompts, key=lambda prompt: hashlib.blake2b(prompt.id.encode()).digest())
    return ordered[ranks.part(len(ordered), index, count)]


def labels(wanted: Sequence[Wanted]) -> pd.DataFrame:
    """What a row of scores is about."""
    rows = [(prompt.id, index, prompt.text, prompt.tags.get("task", "")) for prompt, index in wanted]
    return pd.DataFrame(rows, columns=list(LABELS[1:]))


def chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))


class _Clock:
    """Images per second since it was made."""

    def __init__(self) -> None:
        self.began, self.done = time.monotonic(), 0

    def rate(self, count: int) -> str:
        self.done += count
        return f"{self.done / max(time.monotonic() - self.began, 1e-6):.3g} images/s"
