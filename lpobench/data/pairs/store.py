"""The latent cache: a folder with the mean and log-variance of a VAE's posterior for every image of some pairs.

    cache.json              what it is: VAE, image size, source, how it is cut into shards; written first
    rows.csv.gz             the pairs; image_0 and image_1 are numbers of images
    shard-00000.safetensors mean and logvar, n c h w, float16, in the backbone's scaled latents; zeros for a bad image
    shard-00000.jsonl       first the shard's sha256 and its bad images, then a line per image: its sha256 and uid

With text embeddings also texts.json and text-00000.*, the same for distinct captions (see texts.py).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float16, Int
from safetensors.torch import save_file
from torch import Tensor

from lpobench.data.pairs.shards import Shards, read_claim, shard_name, write_atomic
from lpobench.hashing import file_sha256
from lpobench.plugin import UserError

CACHE, PAIRS = "cache.json", "rows.csv.gz"
LARGEST = 2 * 10**9
"""Bytes of tensors in one shard, at most."""
USUAL = 256 * 2**20
"""Bytes of tensors in one shard where nobody says how many images it should hold."""


@dataclass(frozen=True)
class Store:
    """The shards of one kind of tensors in a cache folder."""

    folder: Path
    shards: Shards
    prefix: str = "shard"

    def path(self, number: int) -> Path:
        return self.folder / shard_name(number, ".safetensors", self.prefix)

    def index_path(self, number: int) -> Path:
        return self.folder / shard_name(number, ".jsonl", self.prefix)

    def write(
        self,
        number: int,
        tensors: Mapping[str, Tensor],
        lines: Sequence[Mapping[str, object]],
        problems: Mapping[str, Sequence[int]],
        scratch: Path,
    ) -> None:
        """Write a shard, then its index: a shard without an index does not count. Same content, same bytes.

        `problems`: reason -> positions in the shard that hold nothing.
        """
        growing = scratch / f".{self.path(number).name}.{os.getpid()}.tmp"
        self.index_path(number).unlink(missing_ok=True)
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, growing)
        digest = file_sha256(growing)
        with growing.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(growing, self.path(number))
        body = "".join(json.dumps(line) + "\n" for line in lines).encode()
        head = {
            "shard": self.path(number).name,
            "sha256": digest,
            "items": len(lines),
            "problems": {reason: list(places) for reason, places in sorted(problems.items())},
            "lines_sha256": hashlib.sha256(body).hexdigest(),
        }
        write_atomic(self.index_path(number), json.dumps(head).encode() + b"\n" + body, scratch)

    def state(self, number: int) -> Literal["missing", "damaged", "whole"]:
        """Whether a shard is there and is what was written; reads all of it."""
        if not self.index_path(number).exists():
            return "missing"
        try:
            head = self.head(number, verify=True)
            return "whole" if file_sha256(self.path(number)) == head["sha256"] else "damaged"
        except (OSError, UserError):
            return "damaged"

    def head(self, number: int, *, verify: bool = False) -> dict:
        """The first line of a shard's index; `verify` compares the other lines with their hash."""
        path = self.index_path(number)
        try:
            with path.open("rb") as file:
                head = json.loads(file.readline())
                if head["items"] != len(self.shards.range(number)):
                    raise ValueError(f"{head['items']} items")
                if verify and hashlib.sha256(file.read()).hexdigest() != head["lines_sha256"]:
                    raise ValueError("its lines were changed")
                return head
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is damaged: {error}") from error

    def check(self) -> dict[str, list[int]]:
        """Every shard is there and undamaged, or UserError; reads the whole store. Returns the items with problems."""
        states = [self.state(number) for number in range(len(self.shards))]
        for number, state in enumerate(states):
            if state == "damaged":
                raise UserError(
                    f"{self.path(number)} is damaged: run the `lpobench data encode` that made it again"
                )
        if missing := states.count("missing"):
            raise UserError(
                f"{self.folder} is not finished: {missing} of {len(states)} {self.prefix}s are missing; "
                "run the `lpobench data encode` that began it again"
            )
        found: dict[str, list[int]] = {}
        for number in range(len(self.shards)):
            for reason, places in self.head(number)["problems"].items():
                found.setdefault(reason, []).extend(self.shards.range(number)[place] for place in places)
        return found

    def shape(self, name: str) -> tuple[int, ...]:
        """Of one item."""
        return layout(self.path(0), name).shape

    def read(self, name: str, items: Int[np.ndarray, " n"]) -> Float16[Tensor, "n ..."]:
        """Some items, in the order given. Only their bytes are read, and nothing stays mapped."""
        result = np.empty((len(items), *self.shape(name)), dtype=np.float16)
        shard, place = np.divmod(items, self.shards.per_shard)
        for number in np.unique(shard):
            there = layout(self.path(int(number)), name)
            file = os.open(self.path(int(number)), os.O_RDONLY)
            try:
                for row in np.flatnonzero(shard == number):
                    if (
                        os.preadv(file, [result[row]], there.start + int(place[row]) * there.stride)
                        != there.stride
                    ):
                        raise UserError(f"{self.path(int(number))} is damaged: it is too short")
            finally:
                os.close(file)
        return torch.from_numpy(result)


@dataclass(frozen=True)
class Layout:
    """Where a float16 tensor lies in a safetensors file."""

    start: int
    """Its first byte in the file."""
    stride: int
    """Bytes of one item."""
    shape: tuple[int, ...]
    """Of one item."""


def layout(path: Path, name: str) -> Layout:
    """Read from the file's header: 8 bytes of length, then JSON. Raises UserError."""
    try:
        return _layout(path, name, path.stat().st_mtime_ns)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"cannot read {path}: {error}") from error


@lru_cache(maxsize=4096)
def _layout(path: Path, name: str, changed: int) -> Layout:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        entry = json.loads(file.read(min(length, 2**20)))[name]
    if entry["dtype"] != "F16":
        raise ValueError(f"{name} is {entry['dtype']}")
    shape = tuple(entry["shape"][1:])
    return Layout(8 + length + entry["data_offsets"][0], 2 * int(np.prod(shape)), shape)


@dataclass(frozen=True)
class StoredLatents:
    """Latents on disk, read when they are asked for."""

    store: Store

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.store.shards.items, *self.store.shape("mean"))

    def __len__(self) -> int:
        return self.store.shards.items

    def __getitem__(self, items: Int[Tensor, " n"]) -> Float16[Tensor, "n c h w"]:
        """Posterior means."""
        return self.store.read("mean", items.numpy())

    def posterior(
        self, items: Int[Tensor, " n"]
    ) -> tuple[Float16[Tensor, "n c h w"], Float16[Tensor, "n c h w"]]:
        """Mean and log-variance."""
        return self.store.read("mean", items.numpy()), self.store.read("logvar", items.numpy())


def open_store(folder: Path, claim: str = CACHE, prefix: str = "shard") -> Store:
    """The store of a cache folder, as its JSON file describes it. Raises UserError."""
    try:
        return Store(folder, Shards(**read_claim(folder / claim)[prefix]), prefix)
    except (KeyError, TypeError) as error:
        raise UserError(f"{folder / claim} does not say how its {prefix}s are cut") from error
