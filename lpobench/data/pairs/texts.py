"""Text embeddings in a latent cache: a backbone's conditioning of every distinct caption, so that training needs no
text encoder (SD3's T5 alone is 10 GB).

    texts.json             what they are, and how they are cut into shards
    text-probe.safetensors two prompts, to recognise the text encoders by
    text-00000.*           shards as in store.py: the conditioning's fields, float16; a line per caption with its hash
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from lpobench.data.pairs.shards import Shards, claim, worker_folder, write_atomic
from lpobench.data.pairs.store import LARGEST, USUAL, Store, open_store
from lpobench.plugin import UserError
from lpobench.types import Backbone, Conditioning

TEXTS, PROBE, PREFIX = "texts.json", "text-probe.safetensors", "text"
PROBES = ["", "a photograph of a red house"]
AT_ONCE = 32
TOLERANCE = 0.02
"""Difference of embeddings, as a share of their size, that another precision may make."""


def encode_texts(
    table: pd.DataFrame,
    backbone: Backbone,
    folder: Path,
    worker: tuple[int, int] = (0, 1),
    per_shard: int | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> int:
    """Encode this worker's share of the captions; returns how many there are in all. Raises UserError."""
    captions = list(dict.fromkeys(table["caption"]))
    probe = tensors_of(backbone.encode_prompt(PROBES))
    each = sum(2 * tensor[0].numel() for tensor in probe.values())
    shards = Shards(len(captions), per_shard or max(1, min(4096, USUAL // each)))
    assert shards.per_shard * each <= LARGEST, "USUAL is below LARGEST"
    about = {
        "format": 1,
        "backbone": backbone.name,
        "fields": {name: list(tensor.shape[1:]) for name, tensor in probe.items()},
        "captions_sha256": hashlib.sha256("\0".join(captions).encode()).hexdigest(),
        PREFIX: {"items": shards.items, "per_shard": shards.per_shard},
    }
    store = Store(folder, shards, PREFIX)
    with worker_folder(folder, worker) as scratch:
        claim(folder / TEXTS, about, scratch)
        if not (folder / PROBE).exists():
            write_atomic(folder / PROBE, save(probe), scratch)
        check_probe(folder, probe)
        for number in shards.share(worker):
            if (state := store.state(number)) == "whole":
                continue
            if state == "damaged":
                say(f"{store.path(number)} is damaged: making it again")
            some = [captions[item] for item in shards.range(number)]
            batches = [some[start : start + AT_ONCE] for start in range(0, len(some), AT_ONCE)]
            parts = [tensors_of(backbone.encode_prompt(batch)) for batch in batches]
            whole = {name: torch.cat([part[name] for part in parts]) for name in probe}
            lines = [{"caption": hashlib.sha256(caption.encode()).hexdigest()} for caption in some]
            store.write(number, whole, lines, {}, scratch)
    return len(captions)


def tensors_of(conditioning: Conditioning) -> dict[str, Tensor]:
    """A conditioning's fields as the cache keeps them. Raises UserError for values beyond float16."""
    found = {f.name: getattr(conditioning, f.name).half().cpu().contiguous() for f in fields(conditioning)}
    for name, tensor in found.items():
        if not tensor.isfinite().all():
            raise UserError(
                f"text embeddings are not finite in float16 ({name}); train with the text encoders instead"
            )
    return found


def check_probe(folder: Path, probe: dict[str, Tensor]) -> None:
    """Raises UserError where the cache's embeddings are of other text encoders."""
    try:
        kept = load_file(folder / PROBE)
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot read {folder / PROBE}: {error}; delete it and encode again") from error
    same = kept.keys() == probe.keys() and all(kept[name].shape == probe[name].shape for name in probe)
    if same:
        kept, probe = ({name: value.float() for name, value in part.items()} for part in (kept, probe))
        same = all(
            (kept[name] - value).norm() <= TOLERANCE * value.norm().clamp(min=1e-6)
            for name, value in probe.items()
        )
    if not same:
        raise UserError(f"text embeddings in {folder} are of other text encoders; choose another --out")


@dataclass(frozen=True)
class StoredTexts:
    """Text embeddings on disk, read when they are asked for."""

    store: Store
    numbers: dict[str, int]
    """Caption -> its number."""
    like: Conditioning
    """Any conditioning of the backbone: which class, device and precision."""

    @classmethod
    def open(cls, folder: Path, captions: pd.Series, like: Conditioning) -> StoredTexts:
        """`captions`: the column of the cache's own table. Every shard is compared with its hash. Raises UserError."""
        store = open_store(folder, TEXTS, PREFIX)
        store.check()
        distinct = list(dict.fromkeys(captions))
        if len(distinct) != store.shards.items:
            raise UserError(
                f"{folder} keeps embeddings of {store.shards.items} captions, its pairs have {len(distinct)}"
            )
        return cls(store, {caption: number for number, caption in enumerate(distinct)}, like)

    def conditioning(self, captions: list[str]) -> Conditioning:
        """One row per caption. Raises UserError for a caption that is not kept."""
        if unknown := [caption for caption in captions if caption not in self.numbers]:
            raise UserError(f"{self.store.folder} keeps no embedding of {unknown[0]!r}")
        items = np.array([self.numbers[caption] for caption in captions], dtype=np.int64)
        read = {
            f.name: self.store.read(f.name, items).to(getattr(self.like, f.name)) for f in fields(self.like)
        }
        return replace(self.like, **read)
