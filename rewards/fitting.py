"""Fitting a reward model to labelled pairs at every noise level: what LRM and SPM training share.

Bradley-Terry with ties (LPO eq. 10-11, released code), AdamW, averaged weights, and early stopping by validation
accuracy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, Protocol

import numpy as np
import torch
from diffusers.training_utils import EMAModel
from jaxtyping import Float
from torch import Tensor, nn

from lpobench.data.pairs import LatentPairs
from lpobench.launch import ranks
from lpobench.plugin import UserError
from lpobench.progress import progress
from rewards.accuracy import evaluate
from rewards.pair_scorer import PairModel, PairScorer, Scores, draw_noise


class Diverged(UserError):
    """The loss stopped being finite."""

    exit_code = 4


class Knobs(Protocol):
    """What the loop reads of a training's settings; LRMTraining says what each means."""

    steps: int
    batch_size: int
    learning_rate: float
    warmup: int
    weight_decay: float
    max_grad_norm: float
    ema_decay: float
    validate_every: int
    validation_pairs: int
    patience: int | None


class PairLoss(Protocol):
    """Of the scores of both images, the label and the weight of each pair; weights of a batch add up to 1."""

    def __call__(
        self,
        score_0: Float[Tensor, " n"],
        score_1: Float[Tensor, " n"],
        label_0: Float[Tensor, " n"],
        weight: Float[Tensor, " n"],
        /,
    ) -> Float[Tensor, ""]: ...


class Look(Protocol):
    """Scores of the part `mine` of a batch of pairs. Random numbers are drawn for all of it, so that they do not
    depend on the number of processes; a part without rows is scored as well, as nothing.
    """

    def __call__(
        self, pairs: LatentPairs, rows: Tensor, mine: slice, generator: torch.Generator
    ) -> Scores: ...


@dataclass(frozen=True)
class FreshLook:
    """Every time a pair is looked at, it has a new timestep, one of `timesteps`, and new noise."""

    scorer: PairScorer
    timesteps: Float[Tensor, " m"]
    posterior: Literal["mean", "sample"]
    dtype: torch.dtype
    """bfloat16: autocast."""

    def __call__(self, pairs: LatentPairs, rows: Tensor, mine: slice, generator: torch.Generator) -> Scores:
        t = self.timesteps[torch.randint(len(self.timesteps), (len(rows),), generator=generator)]
        noise = draw_noise(pairs, len(rows), generator, self.scorer.num_noises)
        spread = draw_noise(pairs, len(rows), generator) if self.posterior == "sample" else None
        if not len(rows[mine]):
            return torch.empty(0), torch.empty(0)
        batch = pairs.batch(rows[mine], None if spread is None else spread[:, mine])
        kind = self.scorer.model.device.type
        with torch.autocast(kind, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            return self.scorer.score(batch, t[mine], noise[:, mine])


@dataclass
class BestWeights:
    """The averaged weights of the most accurate validation so far."""

    accuracy: float = -1.0
    step: int = 0
    age: int = 0
    """Validations since."""
    weights: dict[str, Tensor] = field(default_factory=dict)

    def __str__(self) -> str:
        if not self.step:
            return "not validated yet"
        return f"validation accuracy {self.accuracy:.3f} at step {self.step}"

    def update(self, accuracy: float, step: int, model: PairModel) -> bool:
        if better := accuracy > self.accuracy:
            self.accuracy, self.step, self.age = accuracy, step, 0
            self.weights = {name: value.detach().cpu().clone() for name, value in model.trainable().items()}
        else:
            self.age += 1
        return better


@dataclass
class RewardTraining:
    """One training run: everything the optimiser loop needs."""

    scorer: PairScorer
    look: Look
    pairs: LatentPairs
    validation: LatentPairs
    timesteps: Float[Tensor, " m"]
    """Where validation looks, a pair at one of them."""
    training: Knobs
    seed: int
    loss: PairLoss = field(default_factory=lambda: preference_loss)

    def fit(self, on_best: Callable[[], None]) -> BestWeights:
        """The optimiser loop. `on_best` is called while the best averaged weights are in the model."""
        training, params = self.training, list(self.scorer.model.trainable().values())
        generator = torch.Generator().manual_seed(self.seed)
        optimizer = torch.optim.AdamW(params, training.learning_rate, weight_decay=training.weight_decay)
        rate = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(learning_rate, training))
        average = EMAModel(params, decay=training.ema_decay, foreach=True)
        batches = _batches(len(self.pairs), training.batch_size, generator)
        best, losses = BestWeights(), []
        self.scorer.model.train()
        with progress(training.steps, "training the reward", enabled=ranks.is_main()) as advance:
            for step in range(1, training.steps + 1):
                losses.append(self._gradients(next(batches), generator))
                _check(losses[-1], step)
                nn.utils.clip_grad_norm_(params, training.max_grad_norm)
                optimizer.step()
                optimizer.zero_grad()
                rate.step()
                average.step(params)
                if step % training.validate_every == 0 or step == training.steps:
                    self._validated(best, step, average, on_best)
                recent = np.mean(losses[-training.validate_every :])
                advance(note=f"loss {recent:.3f}, {best}")
                if training.patience is not None and best.age >= training.patience:
                    break
        return best

    def _validated(
        self, best: BestWeights, step: int, average: EMAModel, on_best: Callable[[], None]
    ) -> None:
        """Remember the averaged weights if they are the best so far."""
        with _averaged(average, list(self.scorer.model.trainable().values())):
            if best.update(self._validate(), step, self.scorer.model):
                on_best()

    def _gradients(self, rows: Tensor, generator: torch.Generator) -> float:
        """Leave the gradients of a batch of pairs, of which each process does its part; returns the loss."""
        model, mine = self.scorer.model, ranks.share(len(rows))
        scores = self.look(self.pairs, rows, mine, generator)
        loss = torch.zeros(())
        if len(scores[0]):
            label, weight = (
                torch.as_tensor(column[rows.numpy()], dtype=torch.float32)
                for column in (self.pairs.table["label_0"].to_numpy(), self.pairs.weights)
            )
            weight = weight / weight.sum()
            loss = self.loss(*scores, label[mine].to(model.device), weight[mine].to(model.device))
            loss.backward()
        ranks.sum_gradients(model.trainable().values())
        return sum(ranks.gather(loss.item()))

    def _validate(self) -> float:
        """Accuracy by label, always with the same noise; the timesteps are dealt out to the pairs."""
        num = min(self.training.validation_pairs, len(self.validation))
        some = self.validation.take(np.linspace(0, len(self.validation) - 1, num).astype(int))
        t = self.timesteps[torch.arange(num) % len(self.timesteps)]
        return evaluate(self.scorer, some, t, seed=0)["correct"].mean()


def preference_loss(
    score_0: Float[Tensor, " n"],
    score_1: Float[Tensor, " n"],
    label_0: Float[Tensor, " n"],
    weight: Float[Tensor, " n"],
) -> Float[Tensor, ""]:
    """Cross-entropy of softmax(score_0, score_1) with (label_0, 1 - label_0), nats, summed with weights.

    A tie (label 0.5) is shifted by ln 0.5, so that its minimum, at equal scores, is 0. Weights of a whole batch
    should add up to 1.
    """
    logprobs = torch.stack([score_0, score_1], 1).log_softmax(1)
    loss = -(label_0 * logprobs[:, 0] + (1 - label_0) * logprobs[:, 1])
    loss = loss + torch.where(label_0 == 0.5, np.log(0.5), 0.0)
    return (weight * loss).sum()


def learning_rate(training: Knobs, step: int) -> float:
    """As a share of the peak: linear up over the warm-up, then linear down to 0 at the end."""
    if step < training.warmup:
        return (step + 1) / training.warmup
    return max(0, training.steps - step) / max(1, training.steps - training.warmup)


def _check(loss: float, step: int) -> None:
    if not math.isfinite(loss):
        raise Diverged(f"reward training: loss is {loss} at step {step}; lower learning_rate")


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
