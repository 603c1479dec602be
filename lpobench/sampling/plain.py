"""Plain sampling: deterministic, and only the end is kept."""

from itertools import pairwise

from jaxtyping import Float
from torch import Tensor

from lpobench.sampling.policy import Policy


def at_eta_0(
    policy: Policy, latents: Float[Tensor, "b c h w"], prompts: list[str], timesteps: Float[Tensor, " i"]
) -> Float[Tensor, "b c h w"]:
    """Finished latents, float32 or wider, from noise: one denoiser call per step along the timesteps."""
    for t, s in pairwise(timesteps[:, None].expand(-1, len(latents))):
        latents = policy.step(latents, t, s, prompts, eta=0.0).mean
    return latents
