"""Encoding the images of preference pairs once, into a latent cache (see store.py).

Every distinct image is encoded once, however many pairs show it. A killed encoding goes on where it was, and ends
in the same bytes; a damaged shard is made again.
"""

from __future__ import annotations

import gzip
import hashlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float16
from torch import Tensor

from lpobench.data.pairs.autoencoder import Autoencoder, as_images, posterior
from lpobench.data.pairs.plan import Numbered, number_images, read_images
from lpobench.data.pairs.prefetch import Picture
from lpobench.data.pairs.shards import Shards, claim, worker_folder, write_atomic
from lpobench.data.pairs.source import PairSource
from lpobench.data.pairs.store import CACHE, LARGEST, PAIRS, USUAL, Store
from lpobench.plugin import UserError

FORMAT = 1
RESIZE = "bilinear to a square, aspect ratio not kept"


@dataclass
class Encoded:
    """What an encoding did, and where its time went."""

    images: int = 0
    """Encoded now."""
    reused: int = 0
    """There already."""
    rebuilt: list[str] = field(default_factory=list)
    """Shards that were damaged."""
    problems: dict[str, int] = field(default_factory=dict)
    """Images that have no latents, by reason."""
    seconds: float = 0.0
    vae_seconds: float = 0.0

    @property
    def outside(self) -> float:
        """Share of the time in which the VAE waited."""
        return 1 - self.vae_seconds / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class Encoding:
    """One encoding: everything its shards depend on, and what is told while they are made."""

    source: PairSource
    table: pd.DataFrame
    """The pairs to encode, rows of plan.pair_table(source)."""
    images: Numbered
    backbone: Autoencoder
    store: Store
    batch_size: int = 16
    say: Callable[[str], None] = lambda line: None
    advance: Callable[[int], None] = lambda count: None
    done: Encoded = field(default_factory=Encoded)

    def run(self, worker: tuple[int, int], kept: str | None = None) -> Encoded:
        """Make this worker's share of the shards. `kept`: hash of the table of kept pairs, where `table` is one.

        Raises UserError, such as for a folder that holds a cache of another VAE, size or source.
        """
        folder, text = self.store.folder, pairs_text(self.table, self.images)
        with worker_folder(folder, worker) as scratch:
            claim(folder / CACHE, self.description(text, kept), scratch)
            if not (folder / PAIRS).exists() or (folder / PAIRS).read_bytes() != text:
                write_atomic(folder / PAIRS, text, scratch)
            todo = self.remaining(worker)
            self.advance(self.done.reused)
            self.make(todo, scratch)
        return self.done

    def description(self, pairs: bytes, kept: str | None) -> dict[str, Any]:
        """cache.json: what decides a cache's content."""
        backbone, shards = self.backbone, self.store.shards
        return {
            "format": FORMAT,
            "latent_space": backbone.latent_space,
            "vae": backbone.vae_identity(),
            "size": backbone.image_side(),
            "latent_shape": list(backbone.latent_shape),
            "vae_dtype": str(backbone.vae_dtype()).removeprefix("torch."),
            "dtype": "float16",
            "resize": RESIZE,
            "backbone": backbone.name,
            "source": self.source.identity(),
            "kept": kept,
            "rows": len(self.table),
            "pairs_sha256": hashlib.sha256(pairs).hexdigest(),
            "shard": {"items": shards.items, "per_shard": shards.per_shard},
        }

    def remaining(self, worker: tuple[int, int]) -> list[int]:
        """The worker's shards that are missing or damaged; reads all that are there."""
        todo = []
        for number in self.store.shards.share(worker):
            state = self.store.state(number)
            if state == "whole":
                self.done.reused += len(self.store.shards.range(number))
                continue
            if state == "damaged":
                self.say(f"{self.store.path(number)} is damaged: making it again")
                self.done.rebuilt.append(self.store.path(number).name)
            todo.append(number)
        return todo

    def make(self, todo: list[int], scratch: Path) -> None:
        """Encode shards; one is written in another thread while the next is computed."""
        started = time.monotonic()
        with ThreadPoolExecutor(1, "write") as writer:
            written: Future | None = None
            for number, stream in self.by_shard(todo):
                shard = self.encode(number, stream)
                if written:
                    written.result()
                written = writer.submit(self.write, number, shard, scratch)
            if written:
                written.result()
        self.done.seconds += time.monotonic() - started

    def by_shard(self, todo: list[int]) -> Iterator[tuple[int, Iterator[Picture]]]:
        """Each shard with its pictures, which must be used up before the next. Neighbours are read in one go."""
        ranges, side = self.store.shards.range, self.backbone.image_side()
        for _, run in groupby(enumerate(todo), lambda pair: pair[1] - pair[0]):
            numbers = [number for _, number in run]
            items = range(ranges(numbers[0]).start, ranges(numbers[-1]).stop)
            stream = read_images(self.source, self.table, self.images, items, side)
            try:
                for number in numbers:
                    yield number, (next(stream) for _ in ranges(number))
            finally:
                stream.close()

    def encode(self, number: int, stream: Iterator[Picture]) -> Shard:
        """Pictures through the VAE, in batches of the shard's own."""
        shard = Shard.empty(len(self.store.shards.range(number)), self.backbone.latent_shape)
        waiting: list[tuple[int, np.ndarray]] = []
        for place, picture in enumerate(stream):
            shard.hashes.append(picture.sha256)
            if picture.pixels is None:
                shard.problems.setdefault(picture.problem, []).append(place)
                self.done.problems[picture.problem] = self.done.problems.get(picture.problem, 0) + 1
            else:
                waiting.append((place, picture.pixels))
            if len(waiting) == self.batch_size:
                self.encode_batch(shard, waiting)
                waiting = []
            self.advance(1)
        self.encode_batch(shard, waiting)
        return shard

    def encode_batch(self, shard: Shard, batch: list[tuple[int, np.ndarray]]) -> None:
        if batch:
            places, pixels = zip(*batch, strict=True)
            images = as_images(np.stack(pixels))
            started = time.monotonic()
            mean, logvar = posterior(self.backbone, images, self.batch_size)
            self.done.vae_seconds += time.monotonic() - started
            shard.mean[list(places)], shard.logvar[list(places)] = mean, logvar
            self.done.images += len(places)

    def write(self, number: int, shard: Shard, scratch: Path) -> None:
        uids = [
            self.table[f"image_{place % 2}_uid"].iat[place // 2]
            for place in self.images.first[self.store.shards.range(number)]
        ]
        lines = [{"image": digest, "uid": uid} for digest, uid in zip(shard.hashes, uids, strict=True)]
        tensors = {"mean": shard.mean, "logvar": shard.logvar}
        self.store.write(number, tensors, lines, shard.problems, scratch)


@dataclass
class Shard:
    """A shard in the making; an image with a problem leaves zeros."""

    mean: Float16[Tensor, "n c h w"]
    logvar: Float16[Tensor, "n c h w"]
    hashes: list[str | None] = field(default_factory=list)
    problems: dict[str, list[int]] = field(default_factory=dict)

    @classmethod
    def empty(cls, num: int, latent_shape: tuple[int, int, int]) -> Shard:
        mean, logvar = torch.zeros((2, num, *latent_shape), dtype=torch.float16)
        return cls(mean, logvar)


def plan_encoding(
    source: PairSource,
    table: pd.DataFrame,
    backbone: Autoencoder,
    folder: Path,
    per_shard: int | None = None,
    **options,
) -> Encoding:
    """`options` are Encoding's. Raises UserError where `per_shard` images would not fit into a shard."""
    images = number_images(table)
    each = 2 * 2 * int(np.prod(backbone.latent_shape))
    most = LARGEST // each
    per_shard = per_shard or max(1, min(4096, USUAL // each))
    if per_shard > most:
        raise UserError(f"a shard of latents holds at most {most} images (2 GB), got {per_shard}")
    store = Store(folder, Shards(len(images), per_shard))
    return Encoding(source, table, images, backbone, store, **options)


def pairs_text(table: pd.DataFrame, images: Numbered) -> bytes:
    """rows.csv.gz; the same pairs give the same bytes."""
    numbered = table.assign(image_0=images.of[:, 0], image_1=images.of[:, 1])
    return gzip.compress(numbered.to_csv(index=False, lineterminator="\n").encode(), mtime=0)
