"""One evaluation from its plan to its records: generate, score, aggregate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lpobench.evaluation.aggregate import aggregate
from lpobench.evaluation.execute import fill
from lpobench.evaluation.job import Options, jobs
from lpobench.evaluation.plan import Plan
from lpobench.launch import ranks
from lpobench.prepare import device_of
from lpobench.records.evaluation import EvalRecord
from lpobench.scoring.staged import together


@dataclass(frozen=True)
class Outcome:
    """What came of one part of a plan."""

    folder: Path
    record: EvalRecord | None
    """None while other jobs have images or scores to make."""
    missing: dict[str, int]
    """Images without a score, by scorer."""
    speed: dict[str, float]
    """Images per second of this attempt, by what was done."""


def evaluate(
    plan: Plan,
    out: Path,
    *,
    worker: tuple[int, int] = (0, 1),
    batch_size: int = 16,
    memory: float = 0.0,
    say: Callable[[str], None] = lambda line: None,
) -> list[Outcome]:
    """Do this job's share of a plan, each image and score only where it is missing; who is last writes the records.

    Raises UserError, MissingAsset, Preempted. Where torchrun started several processes, they share the job's work.
    """
    ranks.start(device_of(plan.parts[0].spec))
    options = Options(worker, batch_size, memory, say)
    with jobs(plan, out, options) as begun:
        for name, why in together(lambda: fill(plan, begun, options)).items():
            say(f"not run: {name}: {why}")
        outcomes = []
        for job in (job for job in begun if job.scorers):
            found = ranks.from_main(lambda job=job: aggregate(job))
            finished = isinstance(found, EvalRecord)
            speed = {
                name: count / max(job.costs.phases[name].seconds, 1e-6) for name, count in job.made.items()
            }
            outcomes.append(
                Outcome(job.folder, found if finished else None, {} if finished else found, speed)
            )
    return outcomes
