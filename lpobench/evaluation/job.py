"""One part of an evaluation, as this process does its share of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from lpobench.data.pairs.shards import claim, worker_folder
from lpobench.data.prompts import load_prompts
from lpobench.evaluation.plan import Part, Plan
from lpobench.evaluation.scorers import Scorer
from lpobench.launch import ranks
from lpobench.records.costs import Costs
from lpobench.scoring.staged import TOGETHER, Share
from lpobench.scoring.variants import prompts_sha256
from lpobench.signals import StopFlag

ABOUT = "about.json"


@dataclass(frozen=True)
class Options:
    """How to go about it; changes no score."""

    worker: tuple[int, int] = (0, 1)
    """This job's share, I of N."""
    batch_size: int = TOGETHER
    """Images given to a scorer at once."""
    memory: float = 0.0
    """GiB that scorers may take together; 0: one at a time."""
    say: Callable[[str], None] = lambda line: None


@dataclass
class Job:
    """A part, and what this process has done for it."""

    part: Part
    share: Share
    scorers: list[Scorer]
    costs: Costs = field(default_factory=Costs)
    made: dict[str, int] = field(default_factory=dict)
    """Images, by phase."""
    base: str = ""
    """Fingerprint of the untouched backbone, once it is loaded."""

    @property
    def folder(self) -> Path:
        return self.share.folder


@contextmanager
def jobs(plan: Plan, out: Path, options: Options) -> Iterator[list[Job]]:
    """The parts of a plan, their folders claimed and this process's place in each locked. Raises UserError."""
    index, count = options.worker
    place = index * ranks.world() + ranks.rank(), count * ranks.world()
    prompts = [
        load_prompts(part.settings.prompts, "eval", part.num_prompts, part.settings.seed)
        for part in plan.parts
    ]
    with ExitStack() as stack:
        stop = stack.enter_context(StopFlag())
        made = []
        for part, some in zip(plan.parts, prompts, strict=True):
            folder = out / part.id
            scratch = stack.enter_context(worker_folder(folder, place))
            about = {
                **part.identity,
                "prompts": part.settings.prompts,
                "prompts_sha256": prompts_sha256(some),
            }
            claim(folder / ABOUT, about, scratch)
            painted = range(part.settings.images_per_prompt)
            scored = part.protocol.indices(part.settings.images_per_prompt)
            share = Share(folder, some, painted, scored, place, scratch, stop, options.say)
            made.append(Job(part, share, list(part.scorers)))
        yield made
