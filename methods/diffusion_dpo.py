"""Diffusion-DPO, arXiv:2311.12908: DPO on how well policy and reference denoise a pair's two images.

Winner and loser get the same noise at the same timestep. An image's log ratio is half of how much less the
policy errs on it than the reference, an error being the mean square over latent elements.

Differs from the paper: as in the released code beta multiplies mean errors and takes in T, omega(lambda_t) and
the number of elements. On sums, beta 5000 is 0.305 for SD 1.5's latents and 0.0763 for SDXL's.

Differs from the released code, which accepts epsilon prediction only:
- An error is that of the denoiser's own output. For one and the same model the error of v or of the flow's
  velocity is the error of epsilon over alpha_t^2, so noisy timesteps weigh more on such backbones.
- All errors are float32. Released, the reference's are fp16, whose rounding puts noise of 0.13 on the logit at
  an error of 0.15.
- An adapter is trained and the reference is the policy without it; the whole UNet beside a frozen one, as released,
  is train.parameters "all".
- Latents are posterior means, there draws. `mirror` is off, and where it is on, it takes both images of a pair;
  there each image is mirrored at random.
- SDXL's size conditioning is the backbone's; SDXL Turbo's four timesteps and zero-SNR rescale are left out.

The paper states a learning rate of 2000/beta * 2.048e-8. The released launchers use 1e-8 per pair of an update:
2.048e-5 at their 2048 pairs, a thousand times the paper's at beta 2000 (issue 12 of that repository, unresolved).
Both are for training the whole denoiser (train.parameters "all"), not an adapter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import PositiveFloat

from lpobench import learning
from methods.noised_pairs import NoisedPairsMethod, Probability

if TYPE_CHECKING:
    from torch import Tensor

    from lpobench.learning import NoisedPairs
    from lpobench.sampling import Policy
    from lpobench.sections import TrainSettings
    from lpobench.types import Context


class DiffusionDPO(NoisedPairsMethod):
    """Diffusion-DPO, arXiv:2311.12908: DPO on the denoising errors of a data set's pairs."""

    beta: PositiveFloat = 5000.0
    """DPO temperature, on errors averaged over latent elements"""
    caption_dropout: Probability = 0.2
    """share of the pairs that lose their caption, to train the unguided branch too; released for Turbo: 0"""
    learning_rate_rule: Literal["train", "paper", "released"] = "train"
    """learning rate: train.learning_rate, the paper's 2000/beta * 2.048e-8, or the released 1e-8 per pair of an
    update"""

    def learning_rate(self, train: TrainSettings) -> float:
        """By the rule; at 2048 pairs and beta 5000 the paper's is 8.192e-9, the released 2.048e-5."""
        match self.learning_rate_rule:
            case "train":
                return train.learning_rate
            case "paper":
                return 2000 / self.beta * 2.048e-8
            case "released":
                return 1e-8 * train.minibatch * train.gradient_accumulation

    def denoiser_calls(self, policy: Policy) -> tuple[int, int]:
        """Policy and reference once each per minibatch, winners and losers together."""
        return 0, 2

    def loss(self, ctx: Context, rows: NoisedPairs) -> tuple[Tensor, dict[str, Tensor]]:
        """Logs as learning.clipped_dpo without a clip, and the mean errors of policy and reference."""
        with ctx.policy.reference() as reference:
            old = learning.pair_errors(reference, rows)
        new = learning.pair_errors(ctx.policy, rows)
        winner, loser = map(learning.denoising_gain, new, old)
        loss, logs = learning.clipped_dpo(winner, loser, self.beta, None)
        logs["policy_error"] = (new[0] + new[1]).mean().detach() / 2
        logs["reference_error"] = (old[0] + old[1]).mean() / 2
        return loss, logs
