"""All weights of a denoiser trained, beside a frozen copy: one module with two sets of parameters.

Exchanged are the parameters themselves, not their `data`: autocast keeps rounded weights by parameter and would hand
the policy's to the reference, and what a backward pass has saved is never written to. The frozen ones are those the
module came with, in the memory they had: who shares them goes on reading the base.
"""

import torch
from torch import nn

from lpobench.plugin import UserError
from lpobench.sampling.switched import Switched


class Whole(Switched):
    """Both sets; it begins as the policy, whose weights are those of the base until they are trained."""

    def __init__(self, denoiser: nn.Module):
        """Raises UserError where weights are not float32 or wider: an update would be lost in their rounding."""
        check_precision(denoiser)
        trained: dict[int, nn.Parameter] = {}
        self._slots: list[tuple[dict[str, nn.Parameter | None], str, nn.Parameter, nn.Parameter]] = []
        for module in denoiser.modules():
            for name, frozen in module._parameters.items():
                if frozen is None:
                    continue
                if id(frozen) not in trained:  # one parameter may have several names
                    trained[id(frozen)] = nn.Parameter(frozen.detach().clone())
                self._slots.append((module._parameters, name, trained[id(frozen)], frozen))
        self.as_policy = True

    @property
    def as_policy(self) -> bool:
        return self._as_policy

    @as_policy.setter
    def as_policy(self, on: bool) -> None:
        self._as_policy = on
        for parameters, name, trained, frozen in self._slots:
            parameters[name] = trained if on else frozen


def check_precision(denoiser: nn.Module) -> None:
    """Raises UserError where weights are not float32 or wider."""
    for weight in denoiser.parameters():
        if torch.promote_types(weight.dtype, torch.float32) != weight.dtype:
            raise UserError(
                f"all weights can be trained in float32, the denoiser has {weight.dtype}: load it in float32"
            )
