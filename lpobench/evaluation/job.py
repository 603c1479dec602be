"""One part of an evaluation, as this process does its share of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from lpobench.data.pairs.shards import claim, worker_folder
from lpobench.data.prompts import load_prompts
from lpobench.evaluation.plan import Part, Plan
from lpobench.evaluation.scorers import Scorer, facts_of
from lpobench.launch import ranks
from lpobench.progress import progress
from lpobench.records.costs import Costs
from lpobench.scoring.ledger import Ledger
from lpobench.scoring.pictures import Key, Pictures, Wanted
from lpobench.scoring.staged import Stage, images_of, scores_of, shared
from lpobench.scoring.variants import prompts_sha256
from lpobench.scoring.worker import Limits
from lpobench.signals import StopFlag
from lpobench.types import Prompt

ABOUT = "about.json"
USUAL = Limits()


@dataclass(frozen=True)
class Options:
    """How to go about it; changes no score."""

    worker: tuple[int, int] = (0, 1)
    """This job's share, I of N."""
    batch_size: int = 16
    """Images given to a scorer at once."""
    memory: float = 0.0
    """GiB that scorers may take together; the next is loaded beside the others as long as it fits. 0: one at a time."""
    limits: Limits = USUAL
    say: Callable[[str], None] = lambda line: None


@dataclass
class Job:
    """One part of the plan, as this process does its share of it."""

    part: Part
    folder: Path
    prompts: list[Prompt]
    scratch: Path
    stop: StopFlag
    options: Options
    scorers: list[Scorer]
    costs: Costs = field(default_factory=Costs)
    made: dict[str, int] = field(default_factory=dict)
    hashes: dict[Key, str] = field(default_factory=dict)
    """Of this share's images, as far as they are here."""
    base: str = ""
    """Fingerprint of the untouched backbone, once it is loaded."""

    @property
    def pictures(self) -> Pictures:
        return Pictures(self.folder)

    @property
    def all_images(self) -> list[Wanted]:
        """That are scored, in the order of the prompts."""
        return images_of(self.prompts, self.part.protocol.indices(self.part.settings.images_per_prompt))

    @property
    def share(self) -> list[Prompt]:
        return shared(self.prompts, *_place(self.options.worker))

    @property
    def mine(self) -> list[Wanted]:
        """This share's images, those included that are not scored."""
        return images_of(self.share, range(self.part.settings.images_per_prompt))

    @property
    def mine_scored(self) -> list[Wanted]:
        return images_of(self.share, self.part.protocol.indices(self.part.settings.images_per_prompt))

    def ledger(self, scorer: Scorer) -> Ledger:
        return Ledger(self.folder, scorer.label, scorer.version, facts_of(scorer), scorer.metrics)

    def unscored(self, scorer: Scorer) -> int:
        """How many of this share's images lack its scores."""
        return scores_of(self.ledger(scorer), self.mine_scored, self.hashes)[1]

    def stage(self, title: str, total: int, stack: ExitStack) -> Stage:
        """With a bar that shows images per second."""
        advance = stack.enter_context(progress(total, title, enabled=ranks.is_main() and total > 0))
        return Stage(self.pictures, self.scratch, self.stop, advance, self.options.say)


@contextmanager
def jobs(plan: Plan, out: Path, options: Options) -> Iterator[list[Job]]:
    """The parts of a plan, their folders claimed and this process's place in each locked. Raises UserError."""
    with ExitStack() as stack:
        stop = stack.enter_context(StopFlag())
        prompts = [
            load_prompts(part.settings.prompts, "eval", part.num_prompts, part.settings.seed)
            for part in plan.parts
        ]
        made = []
        for part, some in zip(plan.parts, prompts, strict=True):
            folder = out / part.id
            scratch = stack.enter_context(worker_folder(folder, _place(options.worker)))
            about = {
                **part.identity,
                "prompts": part.settings.prompts,
                "prompts_sha256": prompts_sha256(some),
            }
            claim(folder / ABOUT, about, scratch)
            made.append(Job(part, folder, some, scratch, stop, options, list(part.scorers)))
        yield made


def _place(worker: tuple[int, int]) -> tuple[int, int]:
    """This process among all of all jobs."""
    index, count = worker
    return index * ranks.world() + ranks.rank(), count * ranks.world()
