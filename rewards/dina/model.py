"""DiNa-LRM (arXiv:2602.11146): the trunk's taps, read by the head, at one noise level or several at once."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rewards.dina.head import Head, Logistic
from rewards.dina.trunk import Trunk


class DiNaModel(nn.Module):
    """The adapter, the head and the logistic, if there is one, are trainable."""

    def __init__(self, trunk: Trunk, head: Head, logistic: Logistic | None = None):
        super().__init__()
        self.trunk, self.head, self.logistic = trunk, head, logistic

    @property
    def device(self) -> torch.device:
        return self.head.query_tokens.device

    def trainable(self) -> dict[str, nn.Parameter]:
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    def forward(
        self,
        latents: Float[Tensor, "k n c h w"],
        sigma: Float[Tensor, "k n"],
        context: Float[Tensor, "n words joint"],
        pooled: Float[Tensor, "n pooled"],
    ) -> Float[Tensor, " n"]:
        """Scores in float32, any real number, or (-2, 2) where there is a logistic.

        k > 1 is the noise ensemble: k passes, their tokens end to end, the head once. Not a mean of scores.
        """
        passes = [
            self.head.tokens(self.trunk(noisy, 1000 * level, context, pooled))
            for noisy, level in zip(latents, sigma, strict=True)
        ]
        visual, text = (torch.cat(tokens, 1) for tokens in zip(*passes, strict=True))
        scores = self.head.decode(visual, text)
        return scores if self.logistic is None else self.logistic(scores)

    def sharing(self) -> DiNaModel:
        """Ready to score on the backbone's own weights, and in their precision; the head stays float32."""
        self.trunk.cast_adapter(self.trunk.dtype)
        return self

    def merged(self, dtype: torch.dtype) -> DiNaModel:
        """Ready to score on a copy of them, the adapter merged in; the head stays float32."""
        self.trunk.merge()
        self.trunk.to(dtype)
        return self
