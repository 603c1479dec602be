"""The moves of a training run: collect a round, take an update, save, resume."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor

from lpobench.launch import memory, pieces, ranks
from lpobench.learning import setup
from lpobench.learning.batches import Cursor, Pairs, rows_for_update, shuffled
from lpobench.learning.metrics import MetricsLog
from lpobench.learning.rows import StepRows
from lpobench.learning.shares import Shares
from lpobench.learning.state import StateFiles, TrainState, added
from lpobench.plugin import MethodSettings, UserError
from lpobench.spec import TrainSettings
from lpobench.types import Context

MAX_EMPTY_ROUNDS = 20
LESS = "AdamW keeps two more numbers for each that is trained: fewer are with train.parameters lora"


class NonFiniteLoss(UserError):
    """The loss or its gradient is nan or infinite. Raised before the optimiser step: no weight has moved."""

    exit_code = 4


class EmptyRounds(UserError):
    """Round after round gives nothing to train on."""

    exit_code = 4


@dataclass
class Loop:
    """The live objects of one run, and its moves. Between two moves it can be saved."""

    method: MethodSettings
    ctx: Context
    settings: TrainSettings
    seed: int
    cursor: Cursor
    accelerator: Accelerator
    optimizer: AcceleratedOptimizer
    files: StateFiles
    shares: Shares
    state: TrainState = field(default_factory=TrainState)
    saved: int | None = None
    """Update of the newest checkpoint on disk."""
    resumed_from: int | None = None

    @classmethod
    def start(
        cls,
        method: MethodSettings,
        ctx: Context,
        settings: TrainSettings,
        folder: Path,
        *,
        seed: int,
        prompts: list[str],
        pairs: Pairs | None,
        fingerprint: str,
    ) -> "Loop":
        """Everything set up, and restored if there is something to restore."""
        if settings.prompts_per_round < ranks.world():
            raise UserError(
                f"train.prompts_per_round is {settings.prompts_per_round}, fewer than the {ranks.world()} "
                "processes that share them: use fewer processes or more prompts"
            )
        cursor = Cursor(len(prompts if pairs is None else pairs), settings.prompts_per_round, seed)
        if pairs is None:
            ctx.next_prompts = lambda: [prompts[number] for number in cursor()]
        else:
            ctx.next_pairs = lambda: pairs.rows(_mine(cursor(), ctx)).to(device)
            ctx.num_pairs = settings.prompts_per_round
        device = ctx.policy.backbone.device
        accelerator = setup.accelerator(settings, device)
        optimizer = setup.adamw(ctx.policy.trained, settings, method.learning_rate(settings))
        optimizer = accelerator.prepare(optimizer)
        if settings.gradient_checkpointing:
            ctx.policy.backbone.denoiser.enable_gradient_checkpointing()
        keep, scaler = settings.keep_checkpoints, accelerator.scaler
        files = StateFiles(folder / "checkpoints", keep, fingerprint, method, ctx, optimizer, scaler)
        shares = Shares(method, ctx, settings, cursor, accelerator, optimizer)
        run = cls(method, ctx, settings, seed, cursor, accelerator, optimizer, files, shares)
        run.resume()
        return run

    def resume(self) -> None:
        restored = self.files.restore()
        if restored is None:
            return
        if restored.update > self.settings.num_updates:
            raise UserError(
                f"{self.files.root} is at update {restored.update}, train.num_updates is "
                f"{self.settings.num_updates}: choose another --out, or --no-resume"
            )
        self.state, self.cursor.taken = restored, restored.prompts_taken
        self.saved = self.resumed_from = restored.update
        ranks.say(f"resuming at update {restored.update} of {self.settings.num_updates}")

    def collect(self) -> None:
        """One round of rows, shuffled. Sampled in the precision of the updates, so that ratios start at 1."""
        with self._phase("collect"):
            rows = self.shares.round(self.state)
        state, num = self.state, len(rows)
        order = shuffled(num, self.seed, "rows", state.round)
        state.round += 1
        state.prompts_taken = self.cursor.taken
        state.collected += num
        if isinstance(rows, StepRows):
            state.rows_by_t = added(state.rows_by_t, rows.by_timestep())
        state.round_rows = num
        state.pending = rows.take(order) if num else None
        state.empty_rounds = 0 if num else state.empty_rounds + 1
        if num == 0:
            ranks.say(f"round {state.round} gave no rows to train on")
        if state.empty_rounds == MAX_EMPTY_ROUNDS:
            raise EmptyRounds(
                f"{MAX_EMPTY_ROUNDS} rounds in a row gave no rows to train on (update {state.update}, "
                f"round {state.round}): is the reward flat, or the method's threshold too high?"
            )

    def update(self) -> dict[str, int | float]:
        """One optimiser step on the next rows of the round; returns its line of metrics.jsonl."""
        began, state = time.perf_counter(), self.state
        assert state.pending is not None
        rate = self.method.learning_rate(self.settings)
        for group in self.optimizer.param_groups:
            group["lr"] = setup.warmed_up(rate, state.update, self.settings.warmup_updates)
        left = len(state.pending)
        num = rows_for_update(left, self.settings.minibatch * self.settings.gradient_accumulation)
        with self._phase("update"):
            means = self.shares.gradients(state, num)
            values = _to_floats({**means, "grad_norm": self._clip()})
            values |= _added(ranks.gather({name: values[name] for name in means}))
            self._guard(values)
            with memory.explained(f"in the optimiser step of update {state.update + 1}", LESS):
                self.optimizer.step()
            self.optimizer.zero_grad()
        state.update += 1
        state.trained += num
        state.pending = state.pending.take(torch.arange(num, left)) if num < left else None
        place = {"update": state.update, "round": state.round, "round_rows": state.round_rows, "rows": num}
        reward = {} if state.reward is None else {"reward": state.reward}
        return {**place, **reward, **values, "seconds": time.perf_counter() - began}

    def save(self, metrics: MetricsLog | None) -> None:
        """A checkpoint of this update, unless there is one. Only the main process has metrics."""
        if self.saved == self.state.update:
            return
        with self._phase("checkpoint"):
            if metrics:
                metrics.sync()
            self.files.save(self.state)
        self.saved = self.state.update

    def _clip(self) -> Tensor:
        """Scale the gradient to norm `max_grad_norm` where it is longer; the norm before that."""
        limit = self.settings.max_grad_norm
        norm = self.accelerator.clip_grad_norm_(self.ctx.policy.trained, math.inf if limit is None else limit)
        return pieces.whole(norm)

    def _guard(self, values: dict[str, float]) -> None:
        """Stop on a loss or gradient that is not finite, save an overflow that fp16's scaler will mend."""
        bad = {name: value for name, value in values.items() if not math.isfinite(value)}
        if "loss" not in bad and ("grad_norm" not in bad or self._scaled_up()):
            return
        terms = ", ".join(f"{name} is {value}" for name, value in bad.items())
        raise NonFiniteLoss(
            f"update {self.state.update + 1}: {terms}; stopped before the optimiser step. "
            "Try a lower train.learning_rate or train.precision fp32"
        )

    def _scaled_up(self) -> bool:
        """Whether the gradient is scaled up: the scaler skips a step that overflows, and halves the scale."""
        scaler = self.accelerator.scaler
        return scaler is not None and scaler.get_scale() >= 1

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        """Book wall time and work to a phase."""
        policy, state = self.ctx.policy, self.state
        began, before = time.perf_counter(), policy.work
        yield
        state.seconds[name] = state.seconds.get(name, 0.0) + time.perf_counter() - began
        spent = {kind: num - before[kind] for kind, num in policy.work.items()}
        state.work[name] = added(state.work.get(name, {}), spent)


def _mine(numbers: list[int], ctx: Context) -> list[int]:
    """The shard's part."""
    return numbers[ranks.part(len(numbers), *ctx.policy.shard)]


def _to_floats(values: dict[str, Tensor]) -> dict[str, float]:
    """All of an update's numbers in one transfer from the device."""
    device = values["grad_norm"].device
    together = torch.stack([value.detach().float().to(device) for value in values.values()])
    return dict(zip(values, together.tolist(), strict=True))


def _added(values: list[dict[str, float]]) -> dict[str, float]:
    """Sums by name; a process without rows has no names."""
    names = dict.fromkeys(name for each in values for name in each)
    return {name: sum(each[name] for each in values if name in each) for name in names}
