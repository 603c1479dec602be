"""Muon on hidden matrices and convolution kernels, AdamW on everything else: small models from scratch, fast."""

import torch
from torch import Tensor, nn

ADAM_ONLY = (
    *("conv_in", "conv_out", "embed", "quant_conv"),
    *("transformer.norm_out", "transformer.proj_out", "norm1.linear", "norm1_context.linear"),
)
"""First and last layers, embeddings and modulations: Muon is for hidden matrices."""


class MuonAdamW:
    """torch.optim.Muon takes matrices only, so it steps flattened views that share the kernels' memory."""

    def __init__(self, module: nn.Module, muon_lr: float, adam_lr: float, weight_decay: float = 0.0):
        named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
        hidden = lambda name, p: (
            p.ndim >= 2 and min(p.shape[0], p[0].numel()) >= 8 and not any(k in name for k in ADAM_ONLY)
        )
        self.kernels = [p for name, p in named if hidden(name, p)]
        self.matrices = [nn.Parameter(_matrix(p.detach())) for p in self.kernels]
        others = [p for name, p in named if not hidden(name, p)]
        self.parameters = [p for _, p in named]
        self.optimizers = [
            torch.optim.Muon(self.matrices, lr=muon_lr, weight_decay=weight_decay, momentum=0.95),
            torch.optim.AdamW(others, lr=adam_lr, betas=(0.9, 0.99), weight_decay=0.0, fused=True),
        ]
        self.rates = (muon_lr, adam_lr)

    def step(self, scale: float) -> None:
        """One update with both learning rates times `scale`; clears the gradients."""
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for matrix, kernel in zip(self.matrices, self.kernels, strict=True):
            matrix.grad = _matrix(kernel.grad)
        for optimizer, rate in zip(self.optimizers, self.rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * scale
            optimizer.step()
        for p in (*self.parameters, *self.matrices):
            p.grad = None

    def state_dict(self) -> list[dict]:
        return [optimizer.state_dict() for optimizer in self.optimizers]

    def load_state_dict(self, state: list[dict]) -> None:
        for optimizer, part in zip(self.optimizers, state, strict=True):
            optimizer.load_state_dict(part)


def _matrix(kernel: Tensor) -> Tensor:
    """A kernel as (outputs, inputs); a view for either memory format of a convolution weight."""
    if kernel.ndim == 4 and not kernel.is_contiguous():
        kernel = kernel.permute(0, 2, 3, 1)
    return kernel.flatten(1)
