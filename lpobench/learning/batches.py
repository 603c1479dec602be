"""What a round is fed with and which rows an update takes: all of it follows from the seed and a position."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor

from lpobench.learning.rows import ImagePairs
from lpobench.types import Rows


def derive_seed(seed: int, *words: str | int) -> int:
    """An independent seed for each use of the run's seed, the same on every machine."""
    digest = hashlib.blake2b(repr((seed, *words)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def shuffled(num: int, seed: int, *words: str | int) -> Int[Tensor, " num"]:
    """A permutation of range(num) that depends on nothing but its arguments."""
    return torch.randperm(num, generator=torch.Generator().manual_seed(derive_seed(seed, *words)))


@dataclass
class Cursor:
    """Endless batches of the numbers of `num` prompts or pairs: each once per epoch, every epoch in its own order.

    `taken` is all there is to remember: a batch may straddle two epochs.
    """

    num: int
    batch: int
    seed: int
    taken: int = 0

    def __call__(self) -> list[int]:
        places = range(self.taken, self.taken + self.batch)
        self.taken += self.batch
        return [self._at(*divmod(place, self.num)) for place in places]

    def _at(self, epoch: int, place: int) -> int:
        return _epoch_order(self.num, self.seed, epoch)[place]


@runtime_checkable
class Pairs(Protocol):
    """Preference pairs by number."""

    def __len__(self) -> int: ...

    def rows(self, numbers: list[int]) -> ImagePairs: ...


@lru_cache(maxsize=2)
def _epoch_order(num: int, seed: int, epoch: int) -> tuple[int, ...]:
    return tuple(shuffled(num, seed, "prompts", epoch).tolist())


def rows_for_update(left: int, size: int) -> int:
    """Rows that the next update takes of those left in a round: `size`, or all if under half would remain."""
    return size if left - size >= size / 2 else left


def parts(rows: Rows, most: int, whole: int | None = None) -> Iterator[tuple[Rows, float]]:
    """Split rows into equal parts of at most `most`, each with its share of `whole` rows (default: these).

    The sum of share * mean over the part is the mean over all rows: gradient accumulation is exact.
    """
    if len(rows):
        for index in torch.arange(len(rows)).tensor_split(-(-len(rows) // most)):
            yield rows.take(index), len(index) / (whole or len(rows))


def largest_part(num: int, most: int) -> int:
    """Rows of the largest part that `parts` makes of `num` rows."""
    return -(-num // -(-num // most))
