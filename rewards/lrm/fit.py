"""The optimiser loop of LRM training: AdamW, averaged weights, early stopping by validation accuracy."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from lpobench.data.pairs import LatentPairs
from lpobench.launch import ranks
from lpobench.plugin import UserError
from lpobench.sampling.schedule import Schedule
from rewards.lrm.model import LatentRewardModel
from rewards.lrm.pairwise import draw_noise, evaluate, grid, pair_scores, preference_loss
from rewards.lrm.settings import LRMTraining

log = logging.getLogger(__name__)


class Diverged(UserError):
    """The loss stopped being finite."""

    exit_code = 4


@dataclass
class BestWeights:
    """The averaged weights of the most accurate validation so far."""

    accuracy: float = -1.0
    step: int = 0
    age: int = 0
    """Validations since."""
    weights: dict[str, Tensor] = field(default_factory=dict)

    def update(self, accuracy: float, step: int, model: LatentRewardModel) -> bool:
        if better := accuracy > self.accuracy:
            self.accuracy, self.step, self.age = accuracy, step, 0
            self.weights = {name: value.detach().cpu().clone() for name, value in model.trainable().items()}
        else:
            self.age += 1
        return better


@dataclass
class RewardTraining:
    """One training run: everything the optimiser loop needs."""

    model: LatentRewardModel
    schedule: Schedule
    pairs: LatentPairs
    validation: LatentPairs
    training: LRMTraining
    seed: int
    dtype: torch.dtype

    def fit(self, on_best: Callable[[], None]) -> BestWeights:
        """The optimiser loop. `on_best` is called while the best averaged weights are in the model."""
        training, params = self.training, list(self.model.trainable().values())
        generator = torch.Generator().manual_seed(self.seed)
        optimizer = torch.optim.AdamW(params, training.learning_rate, weight_decay=training.weight_decay)
        rate = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(learning_rate, training))
        average = EMAModel(params, decay=training.ema_decay, foreach=True)
        batches = _batches(len(self.pairs), training.batch_size, generator)
        best, losses, started = BestWeights(), [], time.monotonic()
        self.model.train()
        for step in range(1, training.steps + 1):
            losses.append(self._gradients(next(batches), generator))
            if not math.isfinite(losses[-1]):
                raise Diverged(f"LRM training: loss is {losses[-1]} at step {step}; lower learning_rate")
            nn.utils.clip_grad_norm_(params, training.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
            rate.step()
            average.step(params)
            if step % training.validate_every == 0 or step == training.steps:
                with _averaged(average, params):
                    accuracy = self._validate()
                    if best.update(accuracy, step, self.model):
                        on_best()
                recent, seconds = np.mean(losses[-training.validate_every :]), time.monotonic() - started
                _say("step %d: loss %.3f, validation accuracy %.3f, %.0f s", step, recent, accuracy, seconds)
            if training.patience is not None and best.age >= training.patience:
                break
        _say("best: step %d, validation accuracy %.3f", best.step, best.accuracy)
        return best

    def _gradients(self, rows: Tensor, generator: torch.Generator) -> float:
        """Leave the gradients of a batch of pairs, of which each process does its part; returns the loss."""
        timesteps, device = grid(self.schedule), self.model.device
        t = timesteps[torch.randint(len(timesteps), (len(rows),), generator=generator)]
        noise, mine = draw_noise(self.pairs, len(rows), generator), ranks.share(len(rows))
        sampled = self.training.posterior == "sample"
        spread = draw_noise(self.pairs, len(rows), generator) if sampled else None
        total = torch.as_tensor(self.pairs.weights[rows.numpy()], dtype=torch.float32).sum()
        loss = torch.zeros(())
        if len(rows[mine]):
            batch = self.pairs.batch(rows[mine], None if spread is None else spread[:, mine])
            with torch.autocast(device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
                scores = pair_scores(self.model, self.schedule, batch, t[mine], noise[:, mine])
            loss = preference_loss(*scores, batch.label_0.to(device), (batch.weight / total).to(device))
            loss.backward()
        ranks.sum_gradients(self.model.trainable().values())
        return sum(ranks.gather(loss.item()))

    def _validate(self) -> float:
        """Accuracy by label, always with the same noise; the grid's timesteps are dealt out to the pairs."""
        num = min(self.training.validation_pairs, len(self.validation))
        some = self.validation.take(np.linspace(0, len(self.validation) - 1, num).astype(int))
        timesteps = grid(self.schedule)
        t = timesteps[torch.arange(num) % len(timesteps)]
        return evaluate(self.model, self.schedule, some, t, seed=0)["correct"].mean()


def learning_rate(training: LRMTraining, step: int) -> float:
    """As a share of the peak: linear up over the warm-up, then linear down to 0 at the end."""
    if step < training.warmup:
        return (step + 1) / training.warmup
    return max(0, training.steps - step) / max(1, training.steps - training.warmup)


@contextmanager
def _averaged(average: EMAModel, params: list[nn.Parameter]) -> Iterator[None]:
    """Inside, the parameters are their moving averages."""
    average.store(params)
    average.copy_to(params)
    yield
    average.restore(params)


def _say(message: str, *values: float) -> None:
    if ranks.is_main():
        log.info(message, *values)


def _batches(num: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Positions of pairs, every epoch shuffled anew; an incomplete last batch is left out."""
    size = min(size, num)
    while True:
        yield from torch.randperm(num, generator=generator)[: num // size * size].split(size)
