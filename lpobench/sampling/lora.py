"""The trained layers: peft's LoRA, to the last bit, in fewer operations and switched off by one assignment.

peft multiplies by a scale that is 1 as a rule, adds into a new tensor, under autocast raises to float32 what is
rounded again at once, and makes keys and values of the same prompts anew at every step. Switching as diffusers
does it walks through all modules of the model: 11 ms of every update at SD 1.5's size. In rollouts of float32 weights,
a layer and its adapter are one matrix: equal to rounding, a fourteenth off tiny-sd15's denoiser.
"""

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from jaxtyping import Float
from peft import LoraConfig
from peft.tuners.lora import Linear
from torch import Tensor, nn

from lpobench.sampling.switched import Switched

if TYPE_CHECKING:
    from lpobench.sampling.policy import Lora
    from lpobench.types import Backbone

READS_PROMPTS = ("attn2.to_k", "attn2.to_v")
"""What makes a UNet's keys and values of the prompt, whose input is the same at every step."""


class LoraLinear(Linear, Switched):
    """A linear layer with one adapter; what peft has beyond that, and mixed precision, is left to peft."""

    reads_prompts = False
    """Whether a rollout gives it the same input at every step."""
    _rolling_out = False
    _kept: tuple[Tensor, Tensor] | tuple[()] = ()
    """Last input and output, in a rollout, of a layer that reads prompts."""
    _joint: Tensor | None = None
    """Weight and adapter in one, in a rollout, of any other."""

    @property
    def as_policy(self) -> bool:
        return not self.disable_adapters

    @as_policy.setter
    def as_policy(self, on: bool) -> None:
        self._disable_adapters = not on
        self._kept = ()

    def roll_out(self, on: bool) -> None:
        """From now on weights do not change, and what was made of them is kept; or they may, and it is forgotten."""
        self._rolling_out, self._kept, self._joint = on, (), None

    def forward(self, x: Float[Tensor, "*n given"], *args, **kwargs) -> Float[Tensor, "*n made"]:
        """With gradients nothing is remembered."""
        if not self._rolling_out or not self.reads_prompts or torch.is_grad_enabled():
            return self._made(x, *args, **kwargs)
        if not self._kept or self._kept[0] is not x:
            self._kept = x, self._made(x, *args, **kwargs)
        return self._kept[1]

    def _made(self, x: Float[Tensor, "*n given"], *args, **kwargs) -> Float[Tensor, "*n made"]:
        if args or kwargs or self.merged or self.lora_variant or len(self.active_adapters) != 1:
            return super().forward(x, *args, **kwargs)
        base, name = self.base_layer, self.active_adapters[0]
        if self.disable_adapters:
            return base(x)
        down, up, scale = self.lora_A[name], self.lora_B[name], self.scaling[name]
        alike = x.dtype == down.weight.dtype == base.weight.dtype
        if not alike and not torch.is_autocast_enabled(x.device.type):
            return super().forward(x)
        if not isinstance(self.lora_dropout[name], nn.Identity):
            return super().forward(x)
        if self._joins(x):
            if self._joint is None:
                self._joint = base.weight + scale * (up.weight @ down.weight)
            return F.linear(x, self._joint, base.bias)
        # base first, as peft has it: gradients of x are summed in the order of the calls
        result, change = base(x), up(down(x))
        return result.add_(change if scale == 1 else change * scale)

    def _joins(self, x: Float[Tensor, "*n given"]) -> bool:
        """A narrower type would round the adapter away. A layer that is asked once gains nothing."""
        if not self._rolling_out or self.reads_prompts or torch.is_grad_enabled():
            return False
        return x.dtype == torch.float32 and not torch.is_autocast_enabled(x.device.type)


def add_lora(backbone: "Backbone", lora: "Lora", seed: int) -> list[LoraLinear]:
    """The layers of new, trainable float32 adapters: an exact no-op until the first update (lora_B starts at zero)."""
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.rank if lora.alpha is None else lora.alpha,
        init_lora_weights=lora.init,
        target_modules=list(backbone.lora_targets),
    )
    config._register_custom_module({nn.Linear: LoraLinear})
    with torch.random.fork_rng(devices=[backbone.device] if backbone.device.type == "cuda" else []):
        torch.manual_seed(seed)
        backbone.denoiser.add_adapter(config)
    for parameter in backbone.denoiser.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))
    named = backbone.denoiser.named_modules()
    layers = {name: module for name, module in named if isinstance(module, LoraLinear)}
    for name, layer in layers.items():
        layer.reads_prompts = name.endswith(READS_PROMPTS)
    return list(layers.values())
