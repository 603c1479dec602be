"""Scoring the images of preference pairs once, with any evaluators, into a folder.

    scores.json                       which pairs, and how they are cut into shards; written first
    NAME@VERSION/scorer.json          the evaluator's settings and metrics
    NAME@VERSION/shard-00000.csv.gz   a row per image: its sha256 and uid, its caption's hash, its scores

What is scored is an image under its caption, once however many pairs show it, and every metric of an evaluator is
kept. Scorers can be added later, in any order; a killed scoring goes on where it was.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from lpobench.data.pairs.plan import Numbered, number_images, read_images
from lpobench.data.pairs.prefetch import Picture
from lpobench.data.pairs.shards import Shards, claim, shard_name, worker_folder, write_atomic
from lpobench.data.pairs.source import PairSource
from lpobench.plugin import UserError
from lpobench.types import Evaluator, Prompt

SCORES, SCORER = "scores.json", "scorer.json"
KEYS = ("image", "uid", "caption", "problem")
PER_SHARD = 1024


@dataclass
class Scored:
    """What a scoring did."""

    images: dict[str, int] = field(default_factory=dict)
    """Scored now, by scorer."""
    reused: dict[str, int] = field(default_factory=dict)
    """Scored earlier, by scorer."""
    rebuilt: list[str] = field(default_factory=list)
    """Shards that were damaged."""
    problems: dict[str, int] = field(default_factory=dict)
    """Images that have no score, by reason."""
    seconds: float = 0.0


@dataclass(frozen=True)
class Scoring:
    """One scoring: everything its shards depend on, and what is told while they are made."""

    source: PairSource
    table: pd.DataFrame
    """plan.pair_table(source)."""
    images: Numbered
    """number_images(table, by_caption=True)."""
    shards: Shards
    folder: Path
    scorers: Mapping[str, Evaluator]
    settings: Mapping[str, dict]
    """Of each scorer, JSON values."""
    batch_size: int = 16
    say: Callable[[str], None] = lambda line: None
    advance: Callable[[int], None] = lambda count: None
    done: Scored = field(default_factory=Scored)

    def run(self, worker: tuple[int, int] = (0, 1)) -> Scored:
        """Score this worker's share. Raises UserError, such as for a folder with scores of other pairs."""
        with worker_folder(self.folder, worker) as scratch:
            claim(self.folder / SCORES, description(self.source, self.table, self.shards), scratch)
            for name, scorer in self.scorers.items():
                about = {"scorer": name, "version": scorer.version, "settings": self.settings[name]}
                place = scorer_folder(self.folder, name, scorer.version) / SCORER
                claim(place, {**about, "metrics": list(scorer.metrics)}, scratch)
            todo = {number: self.lacking(number) for number in self.shards.share(worker)}
            sizes = {number: len(self.shards.range(number)) for number in todo}
            for name in self.scorers:
                self.done.reused[name] = sum(
                    sizes[number] for number, names in todo.items() if name not in names
                )
            self.advance(sum(sizes[number] for number, names in todo.items() if not names))
            started = time.monotonic()
            for number, stream in self.by_shard([number for number, names in todo.items() if names]):
                for name, text in self.score(stream, todo[number]).items():
                    write_atomic(self.path(name, number), gzip.compress(text.encode(), mtime=0), scratch)
            self.done.seconds = time.monotonic() - started
        return self.done

    def path(self, name: str, number: int) -> Path:
        return scorer_folder(self.folder, name, self.scorers[name].version) / shard_name(number, ".csv.gz")

    def lacking(self, number: int) -> list[str]:
        """The scorers whose shard is missing or damaged."""
        names = []
        for name, scorer in self.scorers.items():
            path = self.path(name, number)
            if path.exists():
                try:
                    shard = read_shard(path, scorer.metrics)
                    check_shard(shard, self.table, self.images, self.shards.range(number), path)
                    continue
                except UserError as error:
                    self.say(f"{error}: making it again")
                    self.done.rebuilt.append(f"{path.parent.name}/{path.name}")
            names.append(name)
        return names

    def by_shard(self, numbers: list[int]) -> Iterator[tuple[int, Iterator[Picture]]]:
        """Each shard with its pictures, which must be used up before the next. Neighbours are read in one go."""
        for _, run in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
            some = [self.shards.range(number) for _, number in run]
            items = range(some[0].start, some[-1].stop)
            stream = read_images(self.source, self.table, self.images, items, None)
            try:
                for part in some:
                    yield part.start // self.shards.per_shard, (next(stream) for _ in part)
            finally:
                stream.close()

    def score(self, stream: Iterator[Picture], names: list[str]) -> dict[str, str]:
        """One shard's tables as CSV, by scorer. Images of one size go through in batches of the shard's own."""
        rows: list[dict[str, object]] = []
        waiting: dict[tuple[int, ...], list[tuple[int, Picture]]] = {}
        found = {name: [] for name in names}
        for place, picture in enumerate(stream):
            rows.append(self.keys(picture))
            if picture.pixels is None:
                self.done.problems[picture.problem] = self.done.problems.get(picture.problem, 0) + 1
            else:
                batch = waiting.setdefault(picture.pixels.shape, [])
                batch.append((place, picture))
                if len(batch) == self.batch_size:
                    self.score_batch(waiting.pop(picture.pixels.shape), found)
            self.advance(1)
        for batch in waiting.values():
            self.score_batch(batch, found)
        keys = pd.DataFrame(rows, columns=list(KEYS))
        return {
            name: keys.join(pd.concat(parts) if parts else no_scores(self.scorers[name])).to_csv(
                index=False, lineterminator="\n"
            )
            for name, parts in found.items()
        }

    def keys(self, picture: Picture) -> dict[str, object]:
        row, side = divmod(picture.place, 2)
        uid, caption = self.table[f"image_{side}_uid"].iat[row], self.table["caption"].iat[row]
        return dict(zip(KEYS, (picture.sha256, uid, caption_hash(caption), picture.problem), strict=True))

    def score_batch(self, batch: list[tuple[int, Picture]], found: dict[str, list[pd.DataFrame]]) -> None:
        """Score some images of one size; each table's index is their places in the shard."""
        captions = [self.table["caption"].iat[picture.place // 2] for _, picture in batch]
        prompts = [Prompt(caption, caption_hash(caption)) for caption in captions]
        pixels = torch.from_numpy(np.stack([picture.pixels for _, picture in batch]))
        images = pixels.permute(0, 3, 1, 2).float() / 255
        for name, parts in found.items():
            scores = self.scorers[name].score(images, prompts)[list(self.scorers[name].metrics)]
            if len(scores) != len(batch):
                raise RuntimeError(f"evaluator {name} gave {len(scores)} rows for {len(batch)} images")
            if not np.isfinite(scores.to_numpy(float)).all():
                row = int((~np.isfinite(scores.to_numpy(float))).any(axis=1).argmax())
                raise UserError(
                    f"scorer {name} gives {scores.iloc[row].to_dict()} for the image "
                    f"{self.keys(batch[row][1])['uid']}; every score must be finite"
                )
            parts.append(scores.astype(float).set_axis([place for place, _ in batch], axis=0))
            self.done.images[name] = self.done.images.get(name, 0) + len(batch)


def plan_scoring(
    source: PairSource, table: pd.DataFrame, folder: Path, per_shard: int | None = None, **options
) -> Scoring:
    """`options` are Scoring's."""
    images = number_images(table, by_caption=True)
    return Scoring(source, table, images, Shards(len(images), per_shard or PER_SHARD), folder, **options)


def description(source: PairSource, table: pd.DataFrame, shards: Shards) -> dict[str, object]:
    """scores.json: which pairs the scores are of. It says so by content, too: see `check_shard`."""
    cut = {"items": shards.items, "per_shard": shards.per_shard}
    return {"format": 1, "source": source.identity(), "rows": len(table), "shard": cut}


def scorer_folder(folder: Path, name: str, version: str) -> Path:
    """`NAME@VERSION`, without what a file system may not like."""
    return folder / "@".join(re.sub(r"[^\w.-]", "-", part) for part in (name, version))


def caption_hash(caption: str) -> str:
    return hashlib.sha256(caption.encode()).hexdigest()[:16]


def no_scores(scorer: Evaluator) -> pd.DataFrame:
    return pd.DataFrame(columns=list(scorer.metrics), dtype=float)


def read_shard(path: Path, metrics: Mapping[str, object] | list[str]) -> pd.DataFrame:
    """One shard's table. Raises UserError where the file is damaged or lacks a column."""
    texts = dict.fromkeys(KEYS, str)
    try:
        text = gzip.decompress(path.read_bytes())
        table = pd.read_csv(
            io.BytesIO(text), dtype=texts, keep_default_na=False, na_values={name: [""] for name in metrics}
        )
        return table[[*KEYS, *metrics]].astype(dict.fromkeys(metrics, float))
    except (OSError, EOFError, ValueError, KeyError, gzip.zlib.error) as error:
        raise UserError(f"{path} is damaged ({' '.join(str(error).split())[:80]})") from error


def check_shard(shard: pd.DataFrame, table: pd.DataFrame, images: Numbered, items: range, path: Path) -> None:
    """A shard's rows are the images they should be. Raises UserError."""
    if len(shard) != len(items):
        raise UserError(f"{path} is damaged ({len(shard)} rows, should be {len(items)})")
    row, side = np.divmod(images.first[items.start : items.stop], 2)
    uids = np.where(side == 0, table["image_0_uid"].to_numpy()[row], table["image_1_uid"].to_numpy()[row])
    if (shard["uid"].to_numpy(dtype=object) != uids).any():
        raise UserError(f"{path} holds scores of other images")
