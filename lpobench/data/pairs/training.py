"""Preference pairs to train on, from wherever they are: a folder of latents, a latent cache, or images."""

from __future__ import annotations

import json
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float16, Int
from torch import Tensor

from lpobench.data.pairs.autoencoder import Autoencoder, as_autoencoder, as_images, posterior
from lpobench.data.pairs.filter import about_path, read_kept, take_kept
from lpobench.data.pairs.latent import COLUMNS, META, SCORES, LatentPairs, PairsMeta
from lpobench.data.pairs.plan import Numbered, number_images, pair_table, read_images
from lpobench.data.pairs.prefetch import UNREADABLE, picture
from lpobench.data.pairs.record import BadRow, Problems
from lpobench.data.pairs.shards import read_claim
from lpobench.data.pairs.source import PairSource, open_pairs
from lpobench.data.pairs.store import CACHE, PAIRS, StoredLatents, open_store
from lpobench.data.shipped import shipped
from lpobench.hashing import file_sha256
from lpobench.plugin import UserError
from lpobench.types import Backbone

log = logging.getLogger(__name__)
IMAGES_AT_ONCE = 16


def open_latents(source: str | Path, backbone: Backbone) -> LatentPairs:
    """Labelled pairs as latents of the backbone's.

    A folder of latents or a cache is read as it is, and the backbone's VAE is not needed. Anything else that
    `open_pairs` knows, or a table of kept pairs, is read as images, encoded whenever a batch asks for them. What
    cannot be used is counted in the log. Raises UserError and MissingAsset.
    """
    path = shipped(str(source)) or Path(source)
    if (path / CACHE).is_file():
        return read_cache(path, backbone)
    if (path / META).is_file():
        return LatentPairs.read(path, backbone.latent_space)
    return LivePairs.open(str(source), as_autoencoder(backbone)).latent_pairs()


def read_cache(folder: Path, backbone: Backbone) -> LatentPairs:
    """The pairs of a latent cache; latents stay on disk. Every shard is compared with its hash.

    Raises UserError for a cache that is unfinished or damaged, or of another VAE or size.
    """
    about, backbone = read_claim(folder / CACHE), as_autoencoder(backbone)
    here = {
        "latent_space": backbone.latent_space,
        "latent_shape": list(backbone.latent_shape),
        "vae": backbone.vae_identity(),
    }
    for key, value in here.items():
        if about.get(key) != value:
            raise UserError(
                f"latents in {folder}: {key} is {about.get(key)}, that of {backbone.name} is {value}"
            )
    if file_sha256(folder / PAIRS) != about["pairs_sha256"]:
        raise UserError(f"{folder / PAIRS} is damaged or was changed: its sha256 is not {CACHE}'s")
    store = open_store(folder)
    bad = store.check()
    table = pd.read_csv(
        folder / PAIRS,
        dtype={"caption": str, "image_0_uid": str, "image_1_uid": str, "split": "category"},
        keep_default_na=False,
        na_values={name: [""] for name in ("label_0", "label_1", *SCORES)},
    )
    backbone.release_vae()
    meta = PairsMeta(
        latent_space=about["latent_space"], backbone=about["backbone"], made_by="lpobench data encode"
    )
    return as_latent_pairs(table, StoredLatents(store), bad, meta)


def as_latent_pairs(table: pd.DataFrame, latents, bad: dict[str, list[int]], meta: PairsMeta) -> LatentPairs:
    """Pairs whose columns image_0 and image_1 number the latents; those that show a `bad` image are left out."""
    problems = Problems()
    numbers = table[["image_0", "image_1"]].to_numpy()
    usable = table["has_label"].to_numpy(dtype=bool, copy=True)
    for reason, items in bad.items():
        hit = np.isin(numbers, items).any(axis=1)
        usable &= ~hit
        for row in table["row"].to_numpy()[hit]:
            problems.add(reason, int(row))
    for line in problems.lines():
        log.warning("not trained on: %s", line)
    unknown = {name: np.nan for name in COLUMNS if name in SCORES and name not in table}
    return LatentPairs(table[usable].reset_index(drop=True).assign(**unknown), latents, None, meta)


@dataclass(frozen=True)
class LivePairs:
    """Pairs with images, and the VAE that turns them into latents."""

    source: PairSource
    table: pd.DataFrame
    images: Numbered
    backbone: Autoencoder

    @classmethod
    def open(cls, name: str, backbone: Autoencoder) -> LivePairs:
        """`name`: a source, or a table of kept pairs, which says its source."""
        if not name.endswith(".csv.gz"):
            source = open_pairs(name)
            table = pair_table(source)
        else:
            about = read_claim(about_path(Path(name)))
            source = open_pairs(about["source"], about["split"])
            table = take_kept(pair_table(source), read_kept(Path(name)), source.problems)
        if not source.has_images:
            raise UserError(f"{name} has no images to encode")
        table = table[table["has_label"]].reset_index(drop=True)
        return cls(source, table, number_images(table), backbone)

    def latent_pairs(self) -> LatentPairs:
        """Reads every image once, to know now which are damaged; a cache spares that."""
        log.warning(
            "%s: images are encoded while training; `lpobench data encode` does it once", self.source.name
        )
        bad: dict[str, list[int]] = {}
        stream = read_images(self.source, self.table, self.images, range(len(self.images)), None)
        for number, found in enumerate(stream):
            if found.pixels is None:
                bad.setdefault(found.problem, []).append(number)
        table = self.table.assign(image_0=self.images.of[:, 0], image_1=self.images.of[:, 1])
        meta = PairsMeta(latent_space=self.backbone.latent_space, backbone=self.backbone.name)
        for line in self.source.problems.lines():
            log.warning("%s: %s", self.source.name, line)
        return as_latent_pairs(table, LiveLatents(self), bad, meta)

    def pixels(self, number: int) -> np.ndarray:
        """An image, read and resized; from the first of its copies that is not damaged."""
        for place in self.images.copies(int(self.images.first[number])):
            try:
                pair = self.source.get(int(self.table["row"].iat[place // 2]))
            except BadRow:
                continue
            found = picture(place, pair.images[place % 2], self.backbone.image_side())
            if found.pixels is not None:
                return found.pixels
        raise UserError(f"{self.source.name}: {UNREADABLE}; it could be read when the training began")


@dataclass(frozen=True)
class LiveLatents:
    """Latents that are made when they are asked for, rounded as a cache keeps them."""

    pairs: LivePairs

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self), *self.pairs.backbone.latent_shape)

    def __len__(self) -> int:
        return len(self.pairs.images)

    def __getitem__(self, items: Int[Tensor, " n"]) -> Float16[Tensor, "n c h w"]:
        """Posterior means."""
        return self.posterior(items)[0]

    def posterior(
        self, items: Int[Tensor, " n"]
    ) -> tuple[Float16[Tensor, "n c h w"], Float16[Tensor, "n c h w"]]:
        """Mean and log-variance."""
        with ThreadPoolExecutor(IMAGES_AT_ONCE) as pool:
            batches = (
                np.stack(list(pool.map(self.pairs.pixels, some.tolist())))
                for some in items.split(IMAGES_AT_ONCE)
            )
            backbone = self.pairs.backbone
            parts = [posterior(backbone, as_images(batch), IMAGES_AT_ONCE) for batch in batches]
        mean, logvar = (torch.cat(values) for values in zip(*parts, strict=True))
        return mean, logvar


def identity_of(source: str) -> Path | str:
    """What decides the pairs of a source: files to be read for it, or the source's own word.

    A cache's cache.json holds the hashes of everything it was made from.
    """
    path = shipped(source) or Path(source)
    if (path / CACHE).is_file():
        return path / CACHE
    if (path / META).is_file() or (path.is_file() and path.name.endswith(".csv.gz")):
        return path
    return json.dumps(open_pairs(source).identity(), sort_keys=True)
