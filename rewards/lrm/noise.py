"""From the noise path latents come on to the one an LRM knows: same noise level, so the same image behind it.

x_t = alpha x0 + sigma eps   is, divided by a number, the state of any other path at its time of equal
sigma / alpha: by sqrt(alpha^2 + sigma^2) of a variance-preserving one, by alpha + sigma of a flow.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from lpobench.plugin import UserError
from lpobench.sampling.schedule import RectifiedFlow, Schedule, VariancePreserving

STABLE_DIFFUSION = VariancePreserving.scaled_linear()


@dataclass(frozen=True)
class NoiseMap:
    """A backbone's (latents, t) as those of an LRM on a flow or on Stable Diffusion's DDPM schedule.

    Nothing happens where the paths are the same. On the way to the DDPM schedule t is interpolated between
    whole timesteps; levels beyond its ends count as its ends.
    """

    given: Schedule
    is_flow: bool

    @cached_property
    def is_identity(self) -> bool:
        if self.is_flow or self.given.prediction == "flow":
            return self.is_flow and self.given.prediction == "flow"
        return is_stable_diffusion(self.given)

    def __call__(
        self, latents: Float[Tensor, "n c h w"], t: Float[Tensor, " n"]
    ) -> tuple[Float[Tensor, "n c h w"], Float[Tensor, " n"]]:
        if self.is_identity:
            return latents, t
        alpha, sigma = self.given.levels(t)
        if self.is_flow:
            size, own = alpha + sigma, 1000 * sigma / (alpha + sigma)
        else:
            size, own = (alpha**2 + sigma**2).sqrt(), _ddpm_timestep(alpha, sigma)
        return latents / size.view(-1, 1, 1, 1).to(latents), own


def is_stable_diffusion(schedule: Schedule) -> bool:
    """Whether it is the DDPM schedule of SD 1.x, 2.x and XL, whatever the denoiser predicts."""
    own = STABLE_DIFFUSION.alphas_cumprod
    return isinstance(schedule, VariancePreserving) and torch.equal(schedule.alphas_cumprod.cpu(), own)


def check_trainable(schedule: Schedule, backbone: str, is_mmdit: bool) -> None:
    """An LRM's folder does not hold its schedule: UNets are on Stable Diffusion's, MMDiTs on a flow."""
    known = isinstance(schedule, RectifiedFlow) if is_mmdit else is_stable_diffusion(schedule)
    if not known:
        path = "a rectified flow" if is_mmdit else "Stable Diffusion's scaled_linear noise schedule"
        raise UserError(f"an LRM of backbone {backbone} is trained on {path}, which is not the backbone's")


def _ddpm_timestep(alpha: Float[Tensor, " n"], sigma: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Where Stable Diffusion's schedule has this log(sigma / alpha), between whole timesteps linearly."""
    alpha_bar = STABLE_DIFFUSION.alphas_cumprod.double().to(alpha.device)
    levels = ((1 - alpha_bar).log() - alpha_bar.log()) / 2
    level = (sigma.double().log() - alpha.double().log()).clamp(levels[0], levels[-1])
    above = torch.searchsorted(levels, level).clamp(1, len(levels) - 1)
    low, high = levels[above - 1], levels[above]
    return (above - 1 + (level - low) / (high - low)).float()
