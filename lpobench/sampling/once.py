"""Work that does not depend on the prompt, done once where a batch holds every latent under two prompts."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Once:
    """Modules that are given batches of two equal halves: inside `of_halves` they compute one, and return it twice.

    Every tensor they are given has the batch as its first axis, and so has the one they return.
    """

    def __init__(self, modules: Sequence[nn.Module]):
        self.active = False
        for module in modules:
            module.register_forward_pre_hook(self._take, with_kwargs=True)
            module.register_forward_hook(self._give)

    @contextmanager
    def of_halves(self, equal: bool = True) -> Iterator[None]:
        """Does nothing where they are not equal, or gradients are wanted: those would be summed in another order."""
        self.active = equal and not torch.is_grad_enabled()
        try:
            yield
        finally:
            self.active = False

    def _take(self, module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        if not self.active:
            return args, kwargs
        half = lambda value: value[: len(value) // 2] if isinstance(value, Tensor) else value
        return tuple(map(half, args)), {name: half(value) for name, value in kwargs.items()}

    def _give(self, module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        return torch.cat([output, output]) if self.active else output


class SharesHalves:
    """What a backbone is, too, whose denoiser can do with `once`."""

    once: Once


def before_text(unet: nn.Module) -> list[nn.Module]:
    """What costs most of a UNet2DConditionModel's way to its first cross-attention, where no prompt joins the timestep:
    its first residual block and self-attention.
    """
    first, config = unet.down_blocks[0], unet.config
    attentions = getattr(first, "attentions", None)
    if not attentions or config.addition_embed_type is not None or config.class_embed_type is not None:
        return []
    return [first.resnets[0], attentions[0].transformer_blocks[0].attn1]
