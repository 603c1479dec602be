"""The training loop, the same for every method and any number of processes: collect rows, take optimiser
steps on them, repeat.

One round: `method.collect` samples with the current policy under no_grad; its rows are shuffled and cut into
updates; each update is one AdamW step on `minibatch * gradient_accumulation` rows, computed in parts of at
most `minibatch`. Rows are used once. The run may be stopped, or killed, between any two instructions: what
follows from the last checkpoint is bit for bit what would have followed anyway (on the CPU).

Several processes (lpobench.launch) split the prompts of a round and the rows of an update, and every one of
them knows all rows: the result is that of one process, up to the rounding of other batch shapes. Where memory
does not suffice at first, a process splits its share further.

Differs from the released LPO and SPO code: the gradient is really clipped (theirs clips an exhausted
iterator; `max_grad_norm = None` is what they do in effect), and a small remainder of a round joins the update
before it instead of being a short, noisy step of its own.
"""

from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from lpobench.launch import ranks
from lpobench.learning.batches import Pairs
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
    work: dict[str, dict[str, int]]
    """By phase: forward passes (calls), latents that went through them (rows), images decoded (decodes)."""
    scored: int
    """Groups of candidates that the reward scored."""
    dropped: int
    """Of those, the ones that were left out for a score that was nan or inf."""
    resumed_from: int | None
    """The update this process started from; None where it started afresh."""
    processes: int = 1
    microbatch: int | None = None
    """Rows that went through the denoiser at a time, where train.minibatch did not fit in memory."""
    collect_passes: int = 1
    """Passes a process collected its prompts in; more than one where they did not fit in memory at once."""
    rows_by_t: dict[str, int] = field(default_factory=dict)
    """Rows that `collect` returned, by the timestep of their step; empty where rows are no steps."""
    thresholds: dict[str, float] = field(default_factory=dict)
    """What a pair must exceed to be a row, by timestep; empty where the method keeps all."""
    parameters: int = 0
    """Numbers that were trained: those of the adapters, or of all weights of the denoiser."""
    completed: bool = True

    @classmethod
    def of(cls, run: Loop) -> "TrainResult":
        """To be called by all processes."""
        state = run.state.of_all_processes()
        return cls(
            updates=state.update,
            rounds=state.round,
            collected=state.collected,
            trained=state.trained,
            seconds=state.seconds,
            work=state.work,
            scored=state.scored,
            dropped=state.dropped,
            resumed_from=run.resumed_from,
            processes=ranks.world(),
            microbatch=state.microbatch,
            collect_passes=state.collect_passes,
            rows_by_t=state.rows_by_t,
            thresholds=run.method.thresholds(run.ctx.policy),
            parameters=sum(parameter.numel() for parameter in run.ctx.policy.trained),
        )


def train(
    method: MethodSettings,
    ctx: Context,
    settings: TrainSettings,
    folder: Path,
    *,
    seed: int,
    prompts: list[str],
    pairs: Pairs | None = None,
    stop: StopFlag,
    fingerprint: str,
    progress: bool = True,
) -> TrainResult:
    """Train `ctx.policy.trained` for `num_updates` steps, from the newest checkpoint in `folder` if any.

    Rounds are fed with `pairs` where they are given, else with `prompts`. Writes `metrics.jsonl` and
    `checkpoints/`. Seeds `ctx.generator` and sets `ctx.next_prompts` or `ctx.next_pairs`; torch's own
    generators are seeded inside and left as they were. `fingerprint` says which run a checkpoint belongs to.

    Raises Preempted when `stop` was requested and the state is saved; NonFiniteLoss, EmptyRounds,
    StorageError; UserError where the newest checkpoint is another run's.
    """
    ranks.from_main(lambda: _make(folder))
    with seeded(seed, ctx.generator, ctx.policy.backbone.device):
        run = Loop.start(
            method, ctx, settings, folder, seed=seed, prompts=prompts, pairs=pairs, fingerprint=fingerprint
        )
        log = (
            MetricsLog(folder / "metrics.jsonl", after=run.state.update) if ranks.is_main() else nullcontext()
        )
        shown = progress and ranks.is_main()
        with (
            log as metrics,
            progress_bar(settings.num_updates, "training", done=run.state.update, enabled=shown) as advance,
        ):
            while run.state.update < settings.num_updates:
                if reason := ranks.first(stop.reason):
                    run.save(metrics)
                    raise Preempted(
                        f"{reason}: saved at update {run.state.update} of {settings.num_updates}; "
                        "the same command goes on from there"
                    )
                if run.state.pending is None:
                    if settings.epochs and run.state.prompts_taken >= settings.epochs * run.cursor.num:
                        break
                    run.collect()
                    continue
                values = run.update()
                if metrics:
                    metrics.write(values)
                advance(note=f"loss {values['loss']:.4f}")
                if run.state.update % settings.checkpoint_every == 0:
                    run.save(metrics)
            run.save(metrics)
        if run.state.update == 0:
            raise EmptyRounds(
                f"no round of {settings.epochs} epochs gave rows to train on: is the reward flat, or the "
                "method's threshold too high?"
            )
        return TrainResult.of(run)


def _make(folder: Path) -> None:
    """The run's folder, without what dead processes left half-written."""
    folder.mkdir(parents=True, exist_ok=True)
    sweep(folder / "checkpoints")
