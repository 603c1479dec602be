"""Before the first update: accelerator, optimiser, seeds."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn

from lpobench.learning.batches import derive_seed
from lpobench.plugin import UserError
from lpobench.spec import TrainSettings

PRECISIONS = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


def accelerator(settings: TrainSettings, device: torch.device) -> Accelerator:
    """Mixed precision and gradient scaling. Raises UserError where the device cannot do the precision.

    Accumulation is the loop's own, also over processes: it knows how many rows each part has.
    """
    if settings.precision == "fp16" and device.type == "cpu":
        raise UserError('train.precision "fp16" needs a GPU; the cpu has "fp32" and "bf16"')
    AcceleratorState._reset_state(reset_partial_state=True)  # a singleton; a process may train many runs
    return Accelerator(mixed_precision=PRECISIONS[settings.precision], cpu=device.type == "cpu")


def adamw(parameters: list[nn.Parameter], settings: TrainSettings, learning_rate: float) -> torch.optim.AdamW:
    """At a learning rate that is constant after its warm-up."""
    one_by_one = settings.parameters == "all"  # together, a GPU would need another copy of all of them
    return torch.optim.AdamW(
        parameters,
        lr=learning_rate,
        betas=settings.betas,
        weight_decay=settings.weight_decay,
        foreach=False if one_by_one else None,
    )


def warmed_up(learning_rate: float, update: int, warmup: int) -> float:
    """The learning rate of an update, counted from 0: it grows linearly over the first `warmup` updates."""
    return learning_rate * min(1.0, (update + 1) / (warmup + 1))


@contextmanager
def seeded(seed: int, generator: torch.Generator, device: torch.device) -> Iterator[None]:
    """A seed for the method's generator and one for torch's own, which are put back afterwards."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(derive_seed(seed, "torch"))
        generator.manual_seed(derive_seed(seed, "method"))
        yield
