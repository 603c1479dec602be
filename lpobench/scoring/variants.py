"""The two variants of a comparison: the policy, and its untouched base, whose scores runs share."""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import pandas as pd

from lpobench.data.cache import cached, folder_of
from lpobench.launch import memory, ranks
from lpobench.records.costs import Costs
from lpobench.records.scores import FILE, read_scores, write_scores
from lpobench.sampling import Policy
from lpobench.scoring.evaluate import LABELS, Scored, evaluate, metric_columns, metrics_by_column
from lpobench.scoring.generate import Batch, Sampler, generate
from lpobench.signals import Preempted, StopFlag
from lpobench.spec import EvalSettings
from lpobench.types import Evaluator, Prompt

PICTURES = "pictures.npy"
NO_SCORE = {"prompts", "num_prompts", "batch_size", "confidence", "bootstrap_samples", "grid_prompts"}
"""Evaluation settings that change no score of a given prompt."""


@dataclass(frozen=True)
class Scorer:
    """Generates and scores the evaluation images of a variant, charging `costs`.

    Its methods are to be called by all processes: each scores its share of the prompts, all get all scores.
    """

    policy: Policy
    prompts: Sequence[Prompt]
    settings: EvalSettings
    evaluators: Mapping[str, Evaluator]
    costs: Costs
    stop: StopFlag

    @cached_property
    def shown(self) -> list[str]:
        """Ids of the prompts in the sample grid: the first of every task, then the second of every task."""
        seen: Counter[str] = Counter()
        ranked = []
        for place, prompt in enumerate(self.prompts):
            task = prompt.tags.get("task", "")
            ranked.append((seen[task], place, prompt.id))
            seen[task] += 1
        return [prompt_id for _, _, prompt_id in sorted(ranked)[: self.settings.grid_prompts]]

    def score(self, variant: str, *, reference: bool = False, sampler: Sampler | None = None) -> Scored:
        """Raises Preempted when asked to stop: these images have to be made again, the training has not."""
        with self.costs.phase(f"evaluate {variant}"):
            try:
                mine, left = self._share(variant, reference, sampler), None
            except Preempted as preempted:
                mine, left = None, str(preempted)
            if message := ranks.first(left):
                raise Preempted(message)
            return Scored.merge(ranks.gather(mine))

    def score_base(
        self, root: Path, base: Mapping[str, object], identities: Mapping[str, object]
    ) -> tuple[Scored, bool]:
        """Scores of the untouched base, and whether earlier runs had made them all.

        `base` identifies the base and `identities` each evaluator, which has an entry of its own in the cache: what
        no earlier run has asked for is scored now, of images that are made once more. Prompts and settings are added
        here.
        """
        common = {**base, "prompts": prompts_sha256(self.prompts), "shown": self.shown}
        common["settings"] = self.settings.model_dump(exclude=NO_SCORE)
        keys = {name: {**common, "evaluator": identities[name]} for name in self.evaluators}
        missing = ranks.from_main(
            lambda: [name for name, key in keys.items() if not folder_of(root, "base", key).is_dir()]
        )
        made = None
        if missing:
            asked = {name: self.evaluators[name] for name in missing}
            made = replace(self, evaluators=asked).score("none", reference=True)
        return ranks.from_main(lambda: self._kept(root, keys, missing, made)), not missing

    def _share(self, variant: str, reference: bool, sampler: Sampler | None) -> Scored:
        """Scores of this process's prompts."""
        cuts: list[int] = []

        def halved(size: int) -> None:
            cuts.append(size)
            print(f"out of memory making images of {variant}: {size} at a time from here on", file=sys.stderr)

        shown = f"images of {variant}" if ranks.is_main() else None
        prompts = self.prompts[ranks.share(len(self.prompts))]
        batches = generate(
            self.policy,
            prompts,
            self.settings,
            reference=reference,
            sampler=sampler,
            progress=shown,
            halved=halved,
        )
        with memory.explained(
            f"scoring {variant}, one image at a time", "a lower train.precision needs less"
        ):
            made = self._until_stopped(self.costs.each(f"generate {variant}", batches))
            return replace(evaluate(self.evaluators, made, keep=self.shown), batch=min(cuts, default=None))

    def _kept(
        self,
        root: Path,
        keys: Mapping[str, Mapping[str, object]],
        missing: Sequence[str],
        made: Scored | None,
    ) -> Scored:
        """The scores as the cache has them, put there if they have just been made."""
        tables, pictures = [], {}
        made_columns = metric_columns({name: self.evaluators[name] for name in missing})
        for name, key in keys.items():
            alone = {name: self.evaluators[name]}
            own = metric_columns(alone)
            fill = partial(
                self._save, made, {made_columns.get(metric): column for metric, column in own.items()}
            )
            folder, _ = cached(root, "base", key, fill)
            table = read_scores(folder / FILE, metrics_by_column(alone))
            tables.append(table.rename(columns={own[metric]: self._columns[metric] for metric in own}))
            pictures = dict(zip(self.shown, np.load(folder / PICTURES, allow_pickle=False), strict=True))
        labels = [name for name in tables[0] if name in LABELS]
        scores = [table.drop(columns=labels) for table in tables]
        return Scored(pd.concat([tables[0][labels], *scores], axis=1), pictures, made and made.batch)

    @cached_property
    def _columns(self) -> dict[tuple[str, str], str]:
        """(evaluator, metric) -> its column in the whole table."""
        return metric_columns(self.evaluators)

    def _save(self, scored: Scored, columns: Mapping[str, str], folder: Path) -> None:
        """One evaluator's `columns`, under the names they have alone."""
        labels = [name for name in scored.table if name in LABELS]
        write_scores(scored.table[[*labels, *columns]].rename(columns=dict(columns)), folder / FILE)
        np.save(
            folder / PICTURES, np.array([scored.pictures[name] for name in self.shown]), allow_pickle=False
        )

    def _until_stopped(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        for batch in batches:
            if self.stop.requested:
                raise Preempted(
                    f"{self.stop.reason}: stopped between images; the same command goes on from there"
                )
            yield batch


def prompts_sha256(prompts: Sequence[Prompt]) -> str:
    """Content hash of a prompt list: ids, texts and tags, in order."""
    text = json.dumps([[prompt.id, prompt.text, prompt.tags] for prompt in prompts], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
