"""Forward passes of one size, so that a row's result is the same whatever else is asked for."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def in_batches(run: Callable[..., Tensor], size: int, *columns: Tensor) -> Tensor:
    """`run` over `size` rows of the columns at a time, the last time filled up: kernels round differently for
    another batch shape.
    """
    parts = []
    for start in range(0, len(columns[0]), size):
        rows = [column[start : start + size] for column in columns]
        count = len(rows[0])
        whole = [torch.cat([part, part[-1:].expand(size - count, *part.shape[1:])]) for part in rows]
        parts.append(run(*whole)[:count])
    return torch.cat(parts)
