"""The processes of one run: which part is mine, sums and lists over all of them. With one process, no-ops.

The rule of everything built on this: the result does not depend on the number of processes. Work is split,
never repeated; random numbers are drawn for all of it by everybody, and each keeps its part; only the main
process (rank 0) writes files. Every function but `world`, `rank`, `is_main`, `share`, `say` and `tell` has to
be called by all processes, in the same order.
"""

from __future__ import annotations

import atexit
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lpobench.launch import environment
from lpobench.launch.environment import PeerLost
from lpobench.plugin import UserError

T = TypeVar("T")
PATIENCE = timedelta(hours=2)
"""How long a process waits for the others: as long as the main one may take to export or to fill a cache."""
_meanwhile: list[Callable[[], None]] = []
BUCKET = 2**26
"""Numbers per all-reduce: adapters go in one, a whole model in several."""


def start(device: torch.device) -> None:
    """Meet the other processes torchrun started; a second call does nothing, nor does one process alone.

    Raises UserError where `device` is not one that each process has its own of.
    """
    here = environment.place()
    if here is None or here.world == 1 or dist.is_initialized():
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    elif device.type != "cpu":
        raise UserError(f'several processes run on cuda or cpu, not on "{device.type}"')
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    atexit.register(_stop)


def own(device: torch.device) -> torch.device:
    """The device of this process: of several on a machine, each has the GPU of its number. Raises UserError."""
    here = environment.place()
    if here is None or here.world == 1 or device.type != "cuda":
        return device
    if device.index is not None:
        raise UserError(
            f'device "{device}" is one GPU, and there are {here.world} processes: use cuda or auto'
        )
    present = torch.cuda.device_count()
    if here.local_rank >= present:
        raise UserError(f"{here.local_world} processes were started on a machine that has {present} GPUs")
    return torch.device("cuda", here.local_rank)


def world() -> int:
    """How many processes work on this run."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """This process's number among them."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_main() -> bool:
    """Whether this process writes files and talks."""
    return rank() == 0


def share(num: int) -> slice:
    """This process's part of `num` items: contiguous, in order of rank, sizes differ by one at most."""
    return part(num, rank(), world())


def part(num: int, index: int, count: int) -> slice:
    """Part `index` of `count` of `num` items; the parts in order are all items, and empty ones if num < count."""
    return slice(num * index // count, num * (index + 1) // count)


def say(line: str) -> None:
    """A line on stderr, by the main process."""
    if is_main():
        print(line, file=sys.stderr)


def tell(line: str) -> None:
    """A line on stderr, by whoever has something to say."""
    print(line, file=sys.stderr)


def gather(value: T) -> list[T]:
    """Everybody's value in order of rank; any that pickles. Tensors should be on the CPU."""
    if world() == 1:
        return [value]
    values: list[Any] = [None] * world()
    with _peers():
        dist.all_gather_object(values, value)
    return values


def first(value: T | None) -> T | None:
    """The first value over the ranks that is not None."""
    return next((found for found in gather(value) if found is not None), None)


def anywhere(flag: bool) -> bool:
    """Whether the flag is up in any process."""
    return any(gather(flag))


def from_main(make: Callable[[], T]) -> T:
    """What the main process makes, for everybody; a UserError it raises is everybody's."""
    if world() == 1:
        return make()
    made: tuple[T | None, tuple[str, int] | None] = (None, None)
    failure = None
    if is_main():
        try:
            made = make(), None
        except UserError as error:
            made, failure = (None, (str(error), error.exit_code)), error
    box = [made]
    with _peers():
        dist.broadcast_object_list(box, src=0)
    value, problem = box[0]
    if problem is not None:
        raise failure or _error(*problem)
    return value


@contextmanager
def main_holds(make: Callable[[], AbstractContextManager[Any]]) -> Iterator[None]:
    """A context that the main process alone enters, before anybody goes on."""
    with ExitStack() as stack:
        from_main(lambda: stack.enter_context(make()) and None)
        yield


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its sum over the processes. One that nobody has stays None."""
    if world() > 1:
        for bucket in _buckets(parameters):
            _sum(bucket)


def _sum(parameters: list[nn.Parameter]) -> None:
    """One all-reduce of a flat copy, and of how many have each gradient."""
    there = parameters[0].new_tensor([parameter.grad is not None for parameter in parameters])
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = torch.cat([*(grad.flatten() for grad in grads), there])
    with _peers():
        dist.all_reduce(flat)
    sums = flat.split([*(grad.numel() for grad in grads), len(parameters)])
    missing = any(parameter.grad is None for parameter in parameters)
    owners = sums[-1].tolist() if missing else [1] * len(parameters)
    for parameter, total, num in zip(parameters, sums, owners, strict=False):
        if num:
            parameter.grad = _like(total, parameter)


def _like(values: Tensor, parameter: nn.Parameter) -> Tensor:
    return values.view_as(parameter).to(parameter.dtype).clone()  # not a view that keeps the flat copy alive


def _buckets(parameters: Iterable[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    bucket: list[nn.Parameter] = []
    for parameter in parameters:
        if bucket and sum(p.numel() for p in bucket) + parameter.numel() > BUCKET:
            yield bucket
            bucket = []
        bucket.append(parameter)
    if bucket:
        yield bucket


def meanwhile(act: Callable[[], None]) -> None:
    """What a process does at every meeting, that is, any of the functions that wait for the others, before it takes
    part: it has to return in all processes at once.
    """
    _meanwhile[:] = [act]


def announced(numbers: Tensor) -> Tensor:
    """The sum of everybody's numbers, on the CPU: a meeting that comes before `meanwhile`."""
    with _failures():
        dist.all_reduce(numbers)
    return numbers


@contextmanager
def _peers() -> Iterator[None]:
    """A meeting. Turns the failure of a collective call into PeerLost."""
    for act in _meanwhile:
        act()
    with _failures():
        yield


@contextmanager
def _failures() -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise PeerLost(
            f"process {rank()} of {world()} lost another one: {str(error).splitlines()[0]}"
        ) from error


def _error(message: str, code: int) -> UserError:
    error = UserError(message)
    error.exit_code = code
    return error


def _stop() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
