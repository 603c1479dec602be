"""Supervised fine-tuning on the winners: the diffusion loss, nothing about losers and no reference.

As `--train_method sft` of Diffusion-DPO's released code, whose caption dropout it has; for what else differs see
methods/diffusion_dpo.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lpobench import learning
from methods.noised_pairs import NoisedPairsMethod, Probability

if TYPE_CHECKING:
    from torch import Tensor

    from lpobench.learning import NoisedPairs
    from lpobench.sampling import Policy
    from lpobench.types import Context


class SFT(NoisedPairsMethod):
    """Supervised fine-tuning on the winners of a data set's pairs."""

    caption_dropout: Probability = 0.2
    """share of the pairs that lose their caption, to train the unguided branch too"""

    def denoiser_calls(self, policy: Policy) -> tuple[int, int]:
        """The policy once per minibatch, on the winners."""
        return 0, 1

    def loss(self, ctx: Context, rows: NoisedPairs) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean denoising error, in the units of the denoiser's output; it is all there is to log."""
        errors = learning.denoising_errors(ctx.policy, rows.winner, rows.noise, rows.t, rows.prompts)
        return errors.mean(), {}
