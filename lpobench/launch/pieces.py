"""Tensors of which each process has a piece (DTensor), and whole ones. Those that are no pieces stay as they are."""

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from lpobench.launch import ranks


def whole(value: Tensor) -> Tensor:
    """All of it, in every process. To be called by all."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def on_main(value: Tensor) -> Tensor:
    """All of it on the CPU, in the main process; of a piece, the others get an empty tensor. To be called by all."""
    full = whole(value.detach())
    return full.cpu() if full is value or ranks.is_main() else torch.empty(0)


def like(value: Tensor, parameter: Tensor) -> Tensor:
    """This process's piece of a whole tensor, where a parameter of its shape is in pieces."""
    if not isinstance(parameter, DTensor) or value.shape != parameter.shape:
        return value
    mesh, placements = parameter.device_mesh, parameter.placements
    return distribute_tensor(value.to(parameter.device), mesh, placements, src_data_rank=None)
