"""The two variants of a comparison: the policy, and its untouched base, whose scores runs share."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from lpobench.data.cache import cached
from lpobench.records.costs import Costs
from lpobench.records.scores import FILE, read_scores, write_scores
from lpobench.sampling import Policy
from lpobench.scoring.evaluate import Scored, evaluate, metrics_by_column
from lpobench.scoring.generate import Batch, generate
from lpobench.signals import Preempted, StopFlag
from lpobench.spec import EvalSettings
from lpobench.types import Evaluator, Prompt

PICTURES = "pictures.npy"
NO_SCORE = {"prompts", "num_prompts", "batch_size", "confidence", "bootstrap_samples", "grid_prompts"}
"""Evaluation settings that change no score of a given prompt."""


@dataclass(frozen=True)
class Scorer:
    """Generates and scores the evaluation images of a variant, charging `costs`."""

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

    def score(self, variant: str, *, reference: bool = False) -> Scored:
        """Raises Preempted when asked to stop: these images have to be made again, the training has not."""
        batches = generate(
            self.policy, self.prompts, self.settings, reference=reference, progress=f"images of {variant}"
        )
        with self.costs.phase(f"evaluate {variant}"):
            made = self._until_stopped(self.costs.each(f"generate {variant}", batches))
            return evaluate(self.evaluators, made, keep=self.shown)

    def score_base(self, root: Path, base: Mapping[str, object]) -> tuple[Scored, bool]:
        """Scores of the untouched base, and whether an earlier run had made them.

        `base` identifies the base and the evaluators; prompts and settings are added to it here.
        """
        key = {**base, "prompts": prompts_sha256(self.prompts), "shown": self.shown}
        key["settings"] = self.settings.model_dump(exclude=NO_SCORE)
        folder, reused = cached(root, "base", key, self._save_base)
        pictures = np.load(folder / PICTURES, allow_pickle=False)
        table = read_scores(folder / FILE, metrics_by_column(self.evaluators))
        return Scored(table, dict(zip(self.shown, pictures, strict=True))), reused

    def _save_base(self, folder: Path) -> None:
        scored = self.score("none", reference=True)
        write_scores(scored.table, folder / FILE)
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
