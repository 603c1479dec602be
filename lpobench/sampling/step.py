"""One denoising step t -> s as a Gaussian policy.

Whatever the sampler, the step is x_s ~ N(alpha_s * x0 + c * eps, std^2 I), with x0 and eps the denoiser's
estimates at x_t. A sampler is just its rule for (c, std).
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lpobench.sampling.schedule import Schedule

Rule = Literal["ddim", "cps", "flow_sde", "dance_sde"]


@dataclass(frozen=True)
class StepDistribution:
    """pi(x_s | x_t): mean per latent element, one std per row. float32 (or wider)."""

    mean: Float[Tensor, "n c h w"]
    std: Float[Tensor, "n 1 1 1"]

    def sample(self, num: int, generator: torch.Generator | None = None) -> Float[Tensor, "{num} n c h w"]:
        """`num` independent draws per row; copies of the mean where std is 0. The generator lives on mean's
        device.
        """
        shape = (num, *self.mean.shape)
        noise = torch.randn(shape, generator=generator, device=self.mean.device, dtype=self.mean.dtype)
        return self.mean + self.std * noise

    def logprob(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, " n"]:
        """Log density in nats per latent element (the mean over c, h, w, not the sum). Needs std > 0."""
        z = (x - self.mean) / self.std
        return (-0.5 * z**2 - self.std.log() - 0.5 * math.log(2 * math.pi)).flatten(1).mean(1)


def transition(
    schedule: Schedule, t: Float[Tensor, " n"], s: Float[Tensor, " n"], rule: Rule, eta: float
) -> tuple[Float[Tensor, "n 1 1 1"], Float[Tensor, "n 1 1 1"], Float[Tensor, "n 1 1 1"]]:
    """Coefficients (alpha_s, c, std) of the step; eta scales the noise, 0 is deterministic.

    ddim       DDIM eq. 12 and 16 in general affine form: never above sigma_s (LPO eq. 15 is, on flows)
    cps        FlowCPS, coefficient preserving: std = sigma_s * sin(eta * pi / 2)
    flow_sde   Flow-GRPO eq. 9; flow backbones only
    dance_sde  DanceGRPO eq. 8; flow backbones only
    """
    alpha_t, sigma_t = (level.view(-1, 1, 1, 1) for level in schedule.levels(t))
    alpha_s, sigma_s = (level.view(-1, 1, 1, 1) for level in schedule.levels(s))
    if rule == "ddim":
        # at eta 1, r^2 of the next variance is kept and 1 - r^2 drawn anew; no root is of a negative number
        r = alpha_t * sigma_s / (alpha_s * sigma_t)
        std = eta * sigma_s * (1 - r**2).sqrt()
        c = sigma_s * (1 - eta**2 + (eta * r) ** 2).sqrt()
    elif rule == "cps":
        std, c = sigma_s * math.sin(eta * math.pi / 2), sigma_s * math.cos(eta * math.pi / 2)
    else:
        std = eta * (sigma_t - sigma_s).sqrt()
        if rule == "flow_sde":  # the rate is infinite at pure noise: there it is taken at s, as released
            std = std * (sigma_t / (1 - torch.where(sigma_t >= 1, sigma_s, sigma_t))).sqrt()
        c = sigma_s - std**2 / (2 * sigma_t)
    return alpha_s, c, std
