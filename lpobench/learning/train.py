"""The training loop, the same for every method: collect rows, take optimiser steps on them, repeat.

One round: `method.collect` samples with the current policy under no_grad; its rows are shuffled and cut into
updates; each update is one AdamW step on `minibatch * gradient_accumulation` rows, computed in parts of at
most `minibatch`. Rows are used once. The run may be stopped, or killed, between any two instructions: what
follows from the last checkpoint is bit for bit what would have followed anyway (on the CPU).

Differs from the released LPO and SPO code: the gradient is really clipped (theirs clips an exhausted
iterator; `max_grad_norm = None` is what they do in effect), and a small remainder of a round joins the update
before it instead of being a short, noisy step of its own.
"""

from dataclasses import dataclass
from pathlib import Path

from lpobench.learning.checkpoint import StorageError, sweep
from lpobench.learning.loop import EmptyRounds, Loop, NonFiniteLoss
from lpobench.learning.metrics import MetricsLog
from lpobench.learning.setup import seeded
from lpobench.plugin import MethodSettings
from lpobench.progress import progress as progress_bar
from lpobench.signals import Preempted, StopFlag
from lpobench.spec import TrainSettings
from lpobench.types import Context

__all__ = ["EmptyRounds", "NonFiniteLoss", "Preempted", "StorageError", "TrainResult", "train"]


@dataclass(frozen=True)
class TrainResult:
    """What a training run did, since its very start and over all its resumes."""

    updates: int
    rounds: int
    collected: int
    """Rows that `collect` returned."""
    trained: int
    """Rows that went through an update."""
    seconds: dict[str, float]
    """Wall time by phase: collect, update, checkpoint."""
    denoiser_calls: dict[str, int]
    """Forward passes by phase."""
    denoiser_rows: dict[str, int]
    """Latents that went through them, by phase."""
    resumed_from: int | None
    """The update this process started from; None where it started afresh."""
    completed: bool = True

    @classmethod
    def of(cls, run: Loop) -> "TrainResult":
        state = run.state
        return cls(
            updates=state.update,
            rounds=state.round,
            collected=state.collected,
            trained=state.trained,
            seconds=state.seconds,
            denoiser_calls=state.denoiser_calls,
            denoiser_rows=state.denoiser_rows,
            resumed_from=run.resumed_from,
        )


def train(
    method: MethodSettings,
    ctx: Context,
    settings: TrainSettings,
    folder: Path,
    *,
    seed: int,
    prompts: list[str],
    stop: StopFlag,
    fingerprint: str,
    progress: bool = True,
) -> TrainResult:
    """Train `ctx.policy.adapters` for `num_updates` steps, from the newest checkpoint in `folder` if any.

    Writes `metrics.jsonl` and `checkpoints/`. Seeds `ctx.generator` and sets `ctx.next_prompts`; torch's own
    generators are seeded inside and left as they were. `fingerprint` says which run a checkpoint belongs to.

    Raises Preempted when `stop` was requested and the state is saved; NonFiniteLoss, EmptyRounds,
    StorageError; UserError where the newest checkpoint is another run's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sweep(folder / "checkpoints")
    with seeded(seed, ctx.generator, ctx.policy.backbone.device):
        run = Loop.start(method, ctx, settings, folder, seed=seed, prompts=prompts, fingerprint=fingerprint)
        with (
            MetricsLog(folder / "metrics.jsonl", after=run.state.update) as metrics,
            progress_bar(
                settings.num_updates, "training", done=run.state.update, enabled=progress
            ) as advance,
        ):
            while run.state.update < settings.num_updates:
                if stop.requested:
                    run.save(metrics)
                    raise Preempted(
                        f"{stop.reason}: saved at update {run.state.update} of {settings.num_updates}; "
                        "the same command goes on from there"
                    )
                if run.state.pending is None:
                    run.collect()
                    continue
                values = run.update()
                metrics.write(values)
                advance(note=f"loss {values['loss']:.4f}")
                if run.state.update % settings.checkpoint_every == 0:
                    run.save(metrics)
            run.save(metrics)
    return TrainResult.of(run)
