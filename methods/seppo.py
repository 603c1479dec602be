"""SePPO, arXiv:2410.05255 (SSPO in its second version): only winners are data, losers are the model's own.

An earlier checkpoint of the policy draws an image for the winner's prompt, which stands in for the loser, and is
the reference of a Diffusion-DPO loss. Where that checkpoint denoises the winner better than the policy does, its
image is taken for a good one: the sign of its term flips, and the policy learns from both (the "anchor-based
adaptive flipper").

The authors published weights and an evaluation, no training code. Known from the abstract and from what reviews
and later work quote of the text: the loss and its sign, taken at the row's own noise; beta 2000; the checkpoint
is drawn uniformly from all earlier ones, saved every 30 updates, 7 in all, which did better than always taking
the first or the last.

Inferred here: the images are sampled at eta 0 with the run's own steps and guidance; caption dropout is
Diffusion-DPO's. Not known: learning rate, how the images were sampled.

Differs: no checkpoints are kept. The earlier one is the untouched base or the policy as it is when a round
begins, each for half of the rounds: the first and the last of the paper's. A round has to hold many updates, or
the last is hardly earlier; the reference's errors are kept with the rows. Errors as in methods/diffusion_dpo.py.
Where policy and reference err alike, as they do at a round's start, the sample counts as a loser.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from pydantic import PositiveFloat

from lpobench import learning, sampling
from methods.noised_pairs import NoisingSettings, Probability

if TYPE_CHECKING:
    from torch import Tensor

    from lpobench.learning import ReferencedPairs
    from lpobench.sampling import Policy
    from lpobench.types import Context

ALIKE = 1e-5
"""Relative difference of two errors that may come from rounding: batches of another shape make up to 5e-7 in
float32 on tiny-sd15."""


class SePPO(NoisingSettings):
    """SePPO, arXiv:2410.05255: DPO on a data set's winners against an earlier policy's own images."""

    beta: PositiveFloat = 2000.0
    """DPO temperature, on errors averaged over latent elements"""
    reference: Literal["random", "base", "round"] = "random"
    """the earlier policy: the base, the policy at the start of the round, or one of them drawn for each round"""
    caption_dropout: Probability = 0.2
    """share of the pairs that lose their caption, to train the unguided branch too"""

    def denoiser_calls(self, policy: Policy) -> tuple[int, int]:
        """One per sampling step and one for the earlier policy's errors; the policy once per minibatch."""
        return policy.num_steps + 1, 1

    def collect(self, ctx: Context) -> ReferencedPairs:
        """A row per pair, the data set's losers replaced."""
        pairs = ctx.next_pairs()
        with self._earlier(ctx) as policy:
            samples = sampling.at_eta_0(policy, learning.start_noise(ctx), pairs.prompts, policy.grid)
            rows = self.noised(ctx, replace(pairs, loser=samples.to(pairs.winner.dtype)))
            winner, loser = learning.pair_errors(policy, rows)
        return learning.ReferencedPairs(
            rows.winner, rows.loser, rows.noise, rows.t, rows.prompts, winner, loser
        )

    def loss(self, ctx: Context, rows: ReferencedPairs) -> tuple[Tensor, dict[str, Tensor]]:
        """Logs as learning.clipped_dpo without a clip, the mean error on winners, and flipped: the share of rows
        whose sample counts as a winner."""
        errors, loser_errors = learning.pair_errors(ctx.policy, rows)
        winner = learning.denoising_gain(errors, rows.winner_error)
        loser = learning.denoising_gain(loser_errors, rows.loser_error)
        flipped = (errors.detach() > rows.winner_error * (1 + ALIKE)).to(errors.dtype)
        loss, logs = learning.clipped_dpo(winner, (1 - 2 * flipped) * loser, self.beta, None)
        return loss, {**logs, "winner_error": errors.mean().detach(), "flipped": flipped.mean()}

    def _earlier(self, ctx: Context) -> AbstractContextManager[Policy]:
        """The checkpoint that draws this round's losers; the same for all shards."""
        import torch

        drawn = torch.rand((), generator=ctx.generator, device=ctx.generator.device).item() < 0.5
        base = self.reference == "base" or (self.reference == "random" and drawn)
        return ctx.policy.reference() if base else nullcontext(ctx.policy)
