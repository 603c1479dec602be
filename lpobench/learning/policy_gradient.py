"""The clipped policy gradient on denoising steps, which DDPO, Flow-GRPO and step-wise GRPO share."""

import torch
from jaxtyping import Float
from torch import Tensor

from lpobench.learning.objectives import clipped_policy_loss, gaussian_kl
from lpobench.learning.rows import StepSamples
from lpobench.sampling.policy import Policy
from lpobench.sampling.step import StepDistribution


def policy_gradient(
    policy: Policy, rows: StepSamples, *, clip: float, advantage_clip: float, kl_beta: float
) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
    """PPO's clipped loss, the mean over rows and draws, plus kl_beta times KL(policy || reference) of the steps.

    One policy pass for all draws of a row, and one of the reference unless kl_beta is 0. Ratios are of densities
    averaged over latent elements, which is why `clip` is small. Advantages are limited to +-advantage_clip.

    Logs: ratio (mean; 1 before the first update), approx_kl to the policy that sampled (half the mean squared
    log ratio), clipfrac (draws whose ratio is outside 1 +- clip), advantage (mean size, after its limit), and
    kl to the reference where it is taken; both in nats per latent element.
    """
    new = policy.step(rows.latents, rows.t, rows.s, rows.prompts)
    log_ratio = logprobs(new, rows.samples) - rows.logprobs
    ratio, advantages = log_ratio.exp(), rows.advantages.clamp(-advantage_clip, advantage_clip)
    loss = clipped_policy_loss(ratio.flatten(), advantages.flatten(), clip)
    logs = {
        "ratio": ratio.mean().detach(),
        "approx_kl": log_ratio.square().mean().detach() / 2,
        "clipfrac": ((ratio - 1).abs() > clip).float().mean(),
        "advantage": advantages.abs().mean(),
    }
    if kl_beta:
        with policy.reference() as reference:
            ref = reference.step(rows.latents, rows.t, rows.s, rows.prompts)
        kl = gaussian_kl(new, ref).mean()
        loss, logs["kl"] = loss + kl_beta * kl, kl.detach()
    return loss, logs


def logprobs(step: StepDistribution, samples: Float[Tensor, "n k c h w"]) -> Float[Tensor, "n k"]:
    """Log densities of k draws of each row, nats per latent element: computed as the rollouts compute them."""
    return torch.stack([step.logprob(x) for x in samples.to(step.mean.dtype).unbind(1)], 1)
