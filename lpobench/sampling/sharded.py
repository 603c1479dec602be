"""All weights of a denoiser trained beside a frozen copy, as in whole.py, each split over the processes (FSDP2).

A forward or backward pass through split weights is one of all processes: every block's are put together where they
are needed. But processes need not do equally many, for their shares differ. So a pass has its turn: before it, every
process says what it is about to do, and who does not want the pass that comes first joins in with a row that counts
for nothing. A process that has come to a meeting (ranks.py) joins in what the others still do before theirs.

Weights are gathered in float32, and numbers are those of weights that are not split, up to rounding.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard

from lpobench.launch import pieces, ranks
from lpobench.plugin import UserError
from lpobench.sampling.switched import Switched
from lpobench.sampling.whole import check_precision

if TYPE_CHECKING:
    from lpobench.types import Backbone


class Pass(IntEnum):
    """What a process wants; the first that anybody wants is done by all."""

    REFERENCE, ROLLOUT, POLICY, BACKWARD = range(4)


class Sharded(Switched):
    """Both sets, each a module of its own that takes its turn as the backbone's denoiser; it begins as the policy.

    The denoiser that the backbone had is left as it is, for whoever shares it, and given up.
    """

    def __init__(self, backbone: Backbone, idle: Callable[[], Tensor]):
        """`idle` is a forward pass of a row, through the backbone's denoiser.

        Raises UserError for one process, and as Whole does.
        """
        check_processes()
        whole = backbone.denoiser
        check_precision(whole)
        self._backbone, self._idle = backbone, idle
        self._name = next(name for name, value in vars(backbone).items() if value is whole)
        self._empty = _copied(whole, "meta")
        self._frozen = _split(_copied(whole, "cpu").requires_grad_(False), backbone.device)
        self._trained = _split(_copied(whole, "cpu").requires_grad_(True), backbone.device)
        self._joined: list[Tensor] = []
        self.as_policy = True
        ranks.meanwhile(self._wait)

    @property
    def as_policy(self) -> bool:
        return self._as_policy

    @as_policy.setter
    def as_policy(self, on: bool) -> None:
        self._as_policy = on
        setattr(self._backbone, self._name, self._trained if on else self._frozen)

    def forward_turn(self) -> None:
        """Returns when all processes do the forward pass that this one is about to do."""
        trained = Pass.POLICY if torch.is_grad_enabled() else Pass.ROLLOUT
        self._turn(trained if self.as_policy else Pass.REFERENCE)

    def backward_turn(self, loss: Tensor) -> Tensor:
        """The same, of a backward pass. Returns the loss to start it from."""
        self._turn(Pass.BACKWARD)
        return loss + self._nothing()

    @contextmanager
    def assembled(self) -> Iterator[None]:
        """Inside, the backbone's denoiser is the policy in one piece, on the main process's device. The others have one
        without weights. To be entered by all processes.
        """
        state = {name: pieces.on_main(value) for name, value in self._trained.state_dict().items()}
        if ranks.is_main():
            piece = copy.deepcopy(self._empty)
            piece.load_state_dict(state, assign=True)
            setattr(self._backbone, self._name, piece.to(self._backbone.device))
        del state
        try:
            yield
        finally:
            self.as_policy = True

    def _turn(self, wanted: Pass) -> None:
        while (first := _first(wanted)) is not wanted:
            self._join(first)

    def _wait(self) -> None:
        while (first := _first(None)) is not None:
            self._join(first)

    def _join(self, first: Pass) -> None:
        """Do what others want, for nothing."""
        if first is Pass.BACKWARD:
            self._nothing().backward()
            return
        kept, self.as_policy = self.as_policy, first is not Pass.REFERENCE
        with torch.set_grad_enabled(first is Pass.POLICY):
            made = self._idle()
        self.as_policy = kept
        if first is Pass.POLICY:
            self._joined.append(made)

    def _nothing(self) -> Tensor:
        """0, and the graphs of the forward passes that were joined since the last backward pass."""
        made, self._joined = self._joined, []
        return torch.stack([0 * output.sum() for output in made]).sum() if made else torch.zeros(())


def check_processes() -> None:
    """Raises UserError where there is one process alone."""
    if ranks.world() == 1:
        raise UserError(
            "train.sharding fsdp2 splits weights over processes, and there is one: start more with --gpus"
        )


def _first(wanted: Pass | None) -> Pass | None:
    """The first pass that any process wants; None where all are at a meeting."""
    wants = torch.zeros(len(Pass))
    if wanted is not None:
        wants[wanted] = 1
    return next((Pass(number) for number in ranks.announced(wants).nonzero().flatten().tolist()), None)


def _copied(module: nn.Module, place: str) -> nn.Module:
    """A copy whose parameters are elsewhere, a device that is nearly full has no room for it, and in the one order of
    numbers that FSDP2 takes.
    """
    moved = {"device": place, "copy": True, "memory_format": torch.contiguous_format}
    return copy.deepcopy(module, {id(p): nn.Parameter(p.detach().to(**moved)) for p in module.parameters()})


def _split(module: nn.Module, device: torch.device) -> nn.Module:
    """Block by block, as the model's authors say it may be taken apart, then what is left."""
    from torch.distributed.device_mesh import init_device_mesh

    mesh = init_device_mesh(device.type, (ranks.world(),))
    blocks = set(getattr(module, "_no_split_modules", None) or ())
    for block in [part for part in module.modules() if type(part).__name__ in blocks][::-1]:
        fully_shard(block, mesh=mesh, reshard_after_forward=True)
    fully_shard(module, mesh=mesh, reshard_after_forward=True)
    for part in module.modules():
        if isinstance(part, FSDPModule):  # gradients are sums over the processes
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)
    return module
