"""The two variants of a comparison: the policy, and its untouched base, whose images and scores runs share."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import UInt8

from lpobench.data.cache import folder_of
from lpobench.data.pairs.shards import claim, read_claim, worker_folder
from lpobench.launch import memory, ranks
from lpobench.lock import InUse
from lpobench.records.costs import Costs
from lpobench.records.pictures import ABOUT, in_turn
from lpobench.records.record import Protocol
from lpobench.sampling import Policy
from lpobench.scoring.generate import Painter, Sampler
from lpobench.scoring.pictures import Pictures
from lpobench.scoring.staged import Judge, Share, score_table, together
from lpobench.signals import Preempted, StopFlag
from lpobench.spec import EvalSettings
from lpobench.types import Prompt

NO_IMAGE = {"prompts", "num_prompts", "batch_size", "confidence", "bootstrap_samples", "grid_prompts"}
"""Evaluation settings that change no image of a given prompt."""


@dataclass(frozen=True)
class Scored:
    """Scores of all images of a variant, and some of the images."""

    table: pd.DataFrame
    """Columns prompt_id, image, prompt, task ("" without one), then one per metric (float64)."""
    pictures: dict[str, UInt8[np.ndarray, "H W 3"]]
    """The first image of each prompt in the sample grid, by prompt id."""
    batch: int | None = None
    """Images that were made at a time, where eval.batch_size did not fit in memory."""
    reused: tuple[str, ...] = ()
    """Phases whose result was there already."""


@dataclass(frozen=True)
class Scorer:
    """Generates and scores the evaluation images of a variant, charging `costs`.

    Its methods are to be called by all processes: each scores its share of the prompts, all get all scores.
    """

    policy: Policy
    prompts: Sequence[Prompt]
    settings: EvalSettings
    judges: Sequence[Judge]
    costs: Costs
    stop: StopFlag
    cuts: list[int] = field(default_factory=list)
    """Sizes of batches that fitted where larger ones did not."""

    @cached_property
    def shown(self) -> list[str]:
        """Ids of the prompts in the sample grid: the first of every task, then the second of every task."""
        places = in_turn(prompt.tags.get("task", "") for prompt in self.prompts)
        return [self.prompts[place].id for place in places[: self.settings.grid_prompts]]

    def score(
        self,
        variant: str,
        folder: Path,
        about: Mapping[str, object],
        *,
        reference: bool = False,
        sampler: Sampler | None = None,
    ) -> Scored:
        """Images and scores of a variant, in `folder`; `about` is what decides the images besides prompts and settings.

        What is in the folder and is of something else is removed. Raises Preempted when asked to stop.
        """
        about = {**about, **self.conditions}
        ranks.from_main(lambda: clear_other(folder, about))
        with ExitStack() as stack:
            place, said = (ranks.rank(), ranks.world()), []
            scratch = stack.enter_context(worker_folder(folder, place, lambda busy: self._wait(busy, said)))
            claim(folder / ABOUT, about, scratch)
            numbers = range(self.settings.images_per_prompt)
            share = Share(folder, self.prompts, numbers, numbers, place, scratch, self.stop, ranks.say)
            painted = together(lambda: self._paint(share, variant, reference, sampler))
            judged = together(lambda: self._judge(share, variant))
        table, missing = ranks.from_main(lambda: score_table(share, self.judges))
        assert table is not None, f"scores are missing: {missing}"
        done = {"generate": painted, "evaluate": judged}
        reused = tuple(f"{what} {variant}" for what, new in done.items() if not ranks.anywhere(new > 0))
        cut = min((some for cuts in ranks.gather(self.cuts) for some in cuts), default=None)
        return Scored(table, self._pictures(share), cut, reused)

    def score_base(self, root: Path, base: Mapping[str, object]) -> Scored:
        """Of the untouched base, as far as earlier runs have not made them. `base` identifies it."""
        folder = folder_of(root, "base", {**base, **self.conditions})
        return self.score("none", folder, base, reference=True)

    @property
    def conditions(self) -> dict[str, object]:
        """What decides images besides the model."""
        settings = self.settings.model_dump(mode="json", exclude=NO_IMAGE)
        return {"prompts_sha256": prompts_sha256(self.prompts), "settings": settings}

    def _paint(self, share: Share, variant: str, reference: bool, sampler: Sampler | None) -> int:
        """How many images were missing."""
        if not (missing := share.look()):
            return 0

        def halved(size: int) -> None:
            self.cuts.append(size)
            ranks.tell(f"out of memory making images of {variant}: {size} at a time from here on")

        painter = Painter(self.policy, self.settings, reference, sampler, halved=halved)
        with self.costs.phase(f"generate {variant}"), self._memory(variant):
            share.paint(painter, f"images of {variant}")
        return missing

    def _judge(self, share: Share, variant: str) -> int:
        """How many scores were missing."""
        todo = [(judge, missing) for judge in self.judges if (missing := share.unscored(judge))]
        for judge, _ in todo:
            with (
                self.costs.phase(f"evaluate {variant}"),
                self._memory(variant),
                judge.live(self.policy.backbone.device) as evaluator,
            ):
                share.score(judge, evaluator, f"scoring {variant} with {judge.label}")
        return sum(missing for _, missing in todo)

    def _memory(self, variant: str) -> AbstractContextManager[None]:
        return memory.explained(
            f"scoring {variant}, one image at a time", "a lower train.precision needs less"
        )

    def _pictures(self, share: Share) -> dict[str, UInt8[np.ndarray, "H W 3"]]:
        """Of the sample grid, for the main process, which draws it."""
        if not ranks.is_main():
            return {}
        pictures = Pictures(share.folder)
        shown = [(prompt, 0) for prompt in self.prompts if prompt.id in self.shown]
        hashes = pictures.listed(shown)
        return {name: pictures.read((name, 0), hashes[name, 0]) for name in self.shown}

    def _wait(self, busy: InUse, said: list[InUse]) -> None:
        """Another run is making the same. Raises Preempted when asked to stop."""
        if self.stop.requested:
            raise Preempted(f"{self.stop.reason}: stopped while waiting; the same command goes on from there")
        if not said:
            ranks.tell(f"waiting: {busy}")
            said.append(busy)
        time.sleep(0.5)


def clear_other(folder: Path, about: Mapping[str, object]) -> None:
    """Remove images of something else: such as a checkpoint that has changed since."""
    if (folder / ABOUT).exists() and read_claim(folder / ABOUT) != json.loads(json.dumps(about)):
        shutil.rmtree(folder)


def protocol_of(
    settings: EvalSettings, prompts: Sequence[Prompt], judges: Sequence[Judge], name: str | None = None
) -> Protocol:
    """How images are made, and who scores them; `name`: the protocol's, if not the usual one."""
    named = {} if name is None else {"protocol": name}
    return Protocol(
        **named,
        source=settings.prompts,
        num_prompts=len(prompts),
        num_texts=len({prompt.text for prompt in prompts}),
        prompts_sha256=prompts_sha256(prompts),
        images_per_prompt=settings.images_per_prompt,
        num_steps=settings.num_steps,
        guidance_scale=settings.guidance_scale,
        seed=settings.seed,
        confidence=settings.confidence,
        bootstrap_samples=settings.bootstrap_samples,
        evaluators={judge.label: judge.version for judge in judges},
    )


def prompts_sha256(prompts: Sequence[Prompt]) -> str:
    """Content hash of a prompt list: ids, texts and tags, in order."""
    text = json.dumps([[prompt.id, prompt.text, prompt.tags] for prompt in prompts], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
