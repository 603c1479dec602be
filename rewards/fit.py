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
from lpobench.plugin import UserError
from lpobench.sampling.schedule import Schedule
from rewards.lrm import LRMTraining
from rewards.lrm_model import LatentRewardModel
from rewards.pairwise import evaluate, grid, pair_scores, preference_loss

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

    def update(self, accuracy: float, step: int, model: nn.Module) -> bool:
        if better := accuracy > self.accuracy:
            self.accuracy, self.step, self.age = accuracy, step, 0
            self.weights = {key: value.detach().cpu().clone() for key, value in model.state_dict().items()}
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
        training, params = self.training, list(self.model.parameters())
        generator = torch.Generator().manual_seed(self.seed)
        optimizer = torch.optim.AdamW(params, training.learning_rate, weight_decay=training.weight_decay)
        rate = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(learning_rate, training))
        average = EMAModel(params, decay=training.ema_decay, foreach=True)
        batches = _batches(len(self.pairs), training.batch_size, generator)
        best, losses, started = BestWeights(), [], time.monotonic()
        self.model.train()
        for step in range(1, training.steps + 1):
            loss = self._loss(next(batches), generator)
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                raise Diverged(f"LRM training: loss is {losses[-1]} at step {step}; lower learning_rate")
            loss.backward()
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
                log.info(
                    "step %d: loss %.3f, validation accuracy %.3f, %.0f s", step, recent, accuracy, seconds
                )
            if training.patience is not None and best.age >= training.patience:
                break
        log.info("best: step %d, validation accuracy %.3f", best.step, best.accuracy)
        return best

    def _loss(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        batch, timesteps = self.pairs.batch(rows), grid(self.schedule)
        device = self.model.logit_scale.device
        t = timesteps[torch.randint(len(timesteps), (len(batch),), generator=generator)]
        with torch.autocast(device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            scores = pair_scores(self.model, self.schedule, batch, t, generator)
        return preference_loss(*scores, batch.label_0.to(device), batch.weight.to(device))

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


def _batches(num: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Positions of pairs, every epoch shuffled anew; an incomplete last batch is left out."""
    size = min(size, num)
    while True:
        yield from torch.randperm(num, generator=generator)[: num // size * size].split(size)
