"""MaPO, arXiv:2406.06424: margin-aware preference optimisation without a reference.

An image's score is f(L) = sL / (e^(sL) - 1) of its denoising error L, which falls from 1 at no error. The loss
is the winner's error, plus beta times -log sigmoid of T times the winner's score less the loser's. Near L = 0, f
is 1 - sL/2: DPO's loss at beta sT = 500, with errors in place of their drop below a reference's.

Nothing holds the policy near the base but the winners' error. Differs from the released code, which is for SDXL
alone: f loses no digits at small errors and does not overflow at large ones; `mirror` is off (there on, for both
images of a pair, too); any prediction kind is accepted, with the error of the denoiser's own output, and latents
are posterior means (see methods/diffusion_dpo.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import PositiveFloat

from lpobench import learning
from methods.noised_pairs import NoisedPairsMethod

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from lpobench.learning import NoisedPairs
    from lpobench.sampling import Policy
    from lpobench.types import Context


class MaPO(NoisedPairsMethod):
    """MaPO, arXiv:2406.06424: the winner's denoising error, and a margin over the loser's; no reference."""

    beta: PositiveFloat = 0.1
    """weight of the margin's loss beside the winner's error"""
    snr: PositiveFloat = 0.5
    """s, how fast an image's score falls with its error; snr_value in the released code"""
    scale: PositiveFloat = 1000.0
    """T, what a difference of scores is multiplied with: the number of timesteps"""

    def denoiser_calls(self, policy: Policy) -> tuple[int, int]:
        """The policy once per minibatch, winners and losers together."""
        return 0, 1

    def loss(self, ctx: Context, rows: NoisedPairs) -> tuple[Tensor, dict[str, Tensor]]:
        """Logs as `objective`."""
        return self.objective(*learning.pair_errors(ctx.policy, rows))

    def objective(
        self, winner: Float[Tensor, " n"], loser: Float[Tensor, " n"]
    ) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """The loss of the winners' and the losers' errors.

        Logs: accuracy (winner's error below loser's), margin (T times the difference of scores), the mean errors.
        """
        better, worse = image_score(winner, self.snr), image_score(loser, self.snr)
        logs = {
            "accuracy": (winner < loser).float().mean(),
            "margin": self.scale * (better - worse).mean().detach(),
            "winner_error": winner.mean().detach(),
            "loser_error": loser.mean().detach(),
        }
        return winner.mean() + self.beta * learning.dpo_loss(better, worse, self.scale), logs


def image_score(errors: Float[Tensor, " n"], snr: float) -> Float[Tensor, " n"]:
    """f = sL / (e^(sL) - 1), in (0, 1]; written so that neither small nor large errors spoil it."""
    scaled = (snr * errors).clamp(min=1e-30)
    return -scaled * (-scaled).exp() / (-scaled).expm1()
