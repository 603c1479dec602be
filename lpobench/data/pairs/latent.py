"""Preference pairs as latents on disk, in the columns of Pick-a-Pic.

A folder holds `pairs.csv.gz` (one row per pair), `latents.safetensors` (one float16 latent per image, found
by uid) and `meta.json` (latent space, origin, hashes; written last, so a folder with one is whole).
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from pydantic import Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lpobench.hashing import file_sha256
from lpobench.plugin import MissingAsset, Settings, UserError
from lpobench.types import Rows

Split = Literal["train", "validation_unique", "test_unique"]

TEXTS = ("caption", "image_0_uid", "image_1_uid", "split")
LABELS = ("label_0", "label_1", "num_example_per_prompt", "has_label")
SCORES = ("aesthetic_gap", "clipscore_gap", "vqascore_gap", "true_preference_0", "true_preference_1")
COLUMNS = (*TEXTS, *LABELS, *SCORES)
"""`label_0` + `label_1` = 1, a tie is 0.5 each. Gaps are winner minus loser, absolute for ties.
`true_preference_*` is each image's exact preference score. A score that is not known is NaN."""

TABLE, LATENTS, META = "pairs.csv.gz", "latents.safetensors", "meta.json"


class PairsMeta(Settings):
    """What a folder of pairs says about itself."""

    latent_space: str
    """Latent space of the images' latents."""
    backbone: str
    """Backbone whose autoencoder (and sampler, for generated pairs) made them."""
    made_by: str = ""
    """How they were made: the command, or the source."""
    gap_units: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Size of one published unit of the aesthetic, CLIP and VQA gap in this data; scales MPCF's limits."""
    sha256: dict[str, str] = Field(default_factory=dict)
    """Hash of each file, filled in by `write`."""


@dataclass(frozen=True)
class PairBatch(Rows):
    """A minibatch of pairs. `weight` is relative: a loss normalises it over the batch."""

    latents_0: Float[Tensor, "n c h w"]
    latents_1: Float[Tensor, "n c h w"]
    label_0: Float[Tensor, " n"]
    weight: Float[Tensor, " n"]
    prompts: list[str]


class Latents(Protocol):
    """Latents by number: a tensor, or something that reads or makes them when they are asked for."""

    @property
    def shape(self) -> Sequence[int]:
        """m c h w."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, items: Int[Tensor, " n"], /) -> Float[Tensor, "n c h w"]: ...


@runtime_checkable
class Posteriors(Protocol):
    """Latents whose spread is known, too."""

    def posterior(
        self, items: Int[Tensor, " n"]
    ) -> tuple[Float[Tensor, "n c h w"], Float[Tensor, "n c h w"]]:
        """Mean and log-variance."""
        ...


@dataclass(frozen=True)
class LatentPairs:
    """Pairs (rows of `table`) over shared latents; `uids[i]` names `latents[i]`.

    Without `uids` the table's columns image_0 and image_1 number the latents.
    """

    table: pd.DataFrame
    latents: Latents
    uids: list[str] | None
    meta: PairsMeta

    def __post_init__(self):
        if missing := [name for name in COLUMNS if name not in self.table]:
            raise UserError(f"preference pairs lack the columns {', '.join(missing)}")
        if self.uids is not None and (num_uids := len(set(self.uids))) != len(self.latents):
            raise UserError(f"{len(self.latents)} latents need as many distinct uids, got {num_uids}")
        if not np.allclose(self.table["label_0"] + self.table["label_1"], 1):
            raise UserError("label_0 + label_1 must be 1 in every pair (a tie is 0.5 and 0.5)")
        if (self.image_index < 0).any():
            image, row = np.argwhere(self.image_index < 0)[0]
            uid = self.table[f"image_{image}_uid"].iloc[row]
            raise UserError(f"pair {row} names image {uid!r}, which has no latent")

    def __len__(self) -> int:
        return len(self.table)

    @cached_property
    def image_index(self) -> np.ndarray:
        """(2, pairs) positions in `latents`; -1 where the uid is unknown."""
        if self.uids is None:
            return self.table[["image_0", "image_1"]].to_numpy().T
        known = pd.Index(self.uids)
        return np.stack([known.get_indexer(self.table[f"image_{i}_uid"]) for i in (0, 1)])

    @cached_property
    def weights(self) -> np.ndarray:
        """The `weight` column if there is one, else 1 / num_example_per_prompt: each prompt counts alike."""
        if "weight" in self.table:
            return self.table["weight"].to_numpy()
        return 1 / self.table["num_example_per_prompt"].to_numpy()

    @property
    def true_gap(self) -> np.ndarray:
        """Exact preference of image 0 minus image 1; NaN where unknown."""
        return (self.table["true_preference_0"] - self.table["true_preference_1"]).to_numpy(dtype=float)

    def take(self, rows: np.ndarray) -> LatentPairs:
        """The given pairs, by position or by boolean mask; latents stay shared."""
        return replace(self, table=self.table[rows] if rows.dtype == bool else self.table.iloc[rows])

    def split(self, name: Split) -> LatentPairs:
        """The labelled pairs of one split."""
        return self.take((self.table["split"].eq(name) & self.table["has_label"].astype(bool)).to_numpy())

    def batch(self, rows: Tensor | np.ndarray, spread: Float[Tensor, "2 n c h w"] | None = None) -> PairBatch:
        """Pairs at the given positions, latents in float32, on the CPU.

        Latents are posterior means or, with standard normal `spread`, draws. Raises UserError where only means
        were kept.
        """
        rows = np.asarray(rows)
        items = [torch.as_tensor(index[rows]) for index in self.image_index]
        if spread is None:
            first, second = (self.latents[part].float() for part in items)
        elif isinstance(self.latents, Posteriors):
            first, second = (
                mean.float() + (logvar.float() / 2).exp() * noise
                for (mean, logvar), noise in zip(map(self.latents.posterior, items), spread, strict=True)
            )
        else:
            raise UserError(
                "these pairs keep posterior means only; encode the images with `lpobench data encode`"
            )
        label, weight = (
            torch.as_tensor(column[rows], dtype=torch.float32)
            for column in (self.table["label_0"].to_numpy(), self.weights)
        )
        return PairBatch(first, second, label, weight, self.table["caption"].iloc[rows].tolist())

    @classmethod
    def cat(cls, sources: Sequence[LatentPairs]) -> LatentPairs:
        """Several sources as one. Weights are scaled to average 1 in each: a source counts by its pairs."""
        if len(sources) == 1:
            return sources[0]
        if len(spaces := {source.meta.latent_space for source in sources}) > 1:
            raise UserError(f"pairs of several latent spaces cannot be mixed: {', '.join(sorted(spaces))}")
        tables, start = [], 0
        for source in sources:
            index = source.image_index + start
            numbers = {"image_0": index[0], "image_1": index[1]}
            tables.append(source.table.assign(**numbers, weight=source.weights / source.weights.mean()))
            start += len(source.latents)
        latents = Joined(tuple(source.latents for source in sources))
        return cls(pd.concat(tables, ignore_index=True), latents, None, sources[0].meta)

    def write(self, folder: Path) -> None:
        """Write the folder; the same pairs give the same bytes. Latents must be one tensor in memory."""
        assert isinstance(self.latents, Tensor)
        assert self.uids is not None
        folder.mkdir(parents=True, exist_ok=True)
        (folder / META).unlink(missing_ok=True)
        self.table.to_csv(folder / TABLE, index=False, compression={"method": "gzip", "mtime": 0})
        tensors = {"latents": self.latents.to(torch.float16).contiguous()}
        save_file(tensors, folder / LATENTS, metadata={"uids": json.dumps(self.uids)})
        hashes = {name: file_sha256(folder / name) for name in (TABLE, LATENTS)}
        meta = self.meta.model_copy(update={"sha256": hashes})
        (folder / META).write_text(meta.model_dump_json(indent=2) + "\n")

    @classmethod
    def read(cls, folder: Path, latent_space: str | None = None) -> LatentPairs:
        """Read and verify a folder. `latent_space`, when given, must be the data's own."""
        if missing := [name for name in (META, TABLE, LATENTS) if not (folder / name).is_file()]:
            raise MissingAsset(f"no preference pairs in {folder}: {', '.join(missing)} not found")
        try:
            meta = PairsMeta.model_validate_json((folder / META).read_bytes())
        except ValidationError as error:
            problem = error.errors()[0]["msg"]
            raise UserError(f"{folder / META} does not describe preference pairs: {problem}") from error
        if latent_space not in (None, meta.latent_space):
            raise UserError(
                f"pairs in {folder} are of {meta.latent_space}, the backbone makes {latent_space}"
            )
        for name, expected in meta.sha256.items():
            if file_sha256(folder / name) != expected:
                raise UserError(f"{folder / name} is damaged or was changed: its sha256 is not {META}'s")
        return cls(_read_table(folder / TABLE), *_read_latents(folder / LATENTS), meta)


@dataclass(frozen=True)
class Joined:
    """Latents of several sources, numbered one after the other."""

    parts: tuple[Latents, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self), *self.parts[0].shape[1:])

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __getitem__(self, items: Int[Tensor, " n"]) -> Float[Tensor, "n c h w"]:
        return self._gather(items, lambda part, some: (part[some],))[0]

    def posterior(
        self, items: Int[Tensor, " n"]
    ) -> tuple[Float[Tensor, "n c h w"], Float[Tensor, "n c h w"]]:
        """Mean and log-variance. Raises UserError where a source keeps means only."""
        if not all(isinstance(part, Posteriors) for part in self.parts):
            raise UserError(
                "one of the sources keeps posterior means only; encode its images, or train on means"
            )
        mean, logvar = self._gather(items, lambda part, some: part.posterior(some))
        return mean, logvar

    def _gather(
        self, items: Tensor, read: Callable[[Latents, Tensor], tuple[Tensor, ...]]
    ) -> tuple[Tensor, Tensor]:
        result, start = torch.zeros((2, len(items), *self.shape[1:])), 0
        for part in self.parts:
            here = (items >= start) & (items < start + len(part))
            if here.any():
                for place, value in zip(result, read(part, items[here] - start), strict=False):
                    place[here] = value.float()
            start += len(part)
        return result[0], result[1]


def _read_table(path: Path) -> pd.DataFrame:
    """Captions are text whatever they spell ("null" is a word); only scores may be unknown."""
    kinds = {**dict.fromkeys(TEXTS, str), "label_0": float, "label_1": float, "has_label": bool}
    unknown = {name: [""] for name in SCORES}
    try:
        return pd.read_csv(path, dtype=kinds, keep_default_na=False, na_values=unknown)
    except (ValueError, OSError, EOFError, zlib.error) as error:  # pandas' own are ValueErrors
        problem = str(error).splitlines()[0]
        raise UserError(f"{path} is no table of preference pairs: {problem}") from error


def _read_latents(path: Path) -> tuple[Tensor, list[str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return file.get_tensor("latents"), json.loads(file.metadata()["uids"])
    except (SafetensorError, KeyError, TypeError) as error:
        raise UserError(f"{path} does not hold latents and their uids: {error}") from error
