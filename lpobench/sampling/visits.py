"""Sampling that stops on the way: for methods that differentiate one step and no chain of them."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lpobench.sampling.noise import Noise
from lpobench.sampling.policy import Policy


@dataclass(frozen=True)
class Visit:
    """x_t of every prompt on its way from noise, and the noise that the step to s is taken with."""

    latents: Float[Tensor, "b c h w"]
    t: Float[Tensor, " b"]
    s: Float[Tensor, " b"]
    noise: Float[Tensor, "b c h w"]
    prompts: list[str]


def visits(
    policy: Policy, prompts: list[str], generator: torch.Generator, steps: Collection[int]
) -> Iterator[Visit]:
    """Denoise from pure noise and show x_t at the start of the given steps, before the denoiser has seen it.

    The rollout ends where the last of them begins: a visit of step 0 costs no denoiser call. Like forks and
    paths it rolls out the policy's shard of the prompts.
    """
    noise = Noise.of(policy, len(prompts), generator)
    prompts = prompts[noise.mine]
    latents, grid, last = noise.start(policy, 1)[0], policy.grid, max(steps)
    for index in range(last + 1):
        t, s = grid[index].expand(len(prompts)), grid[index + 1].expand(len(prompts))
        drawn = noise.normal(1, latents.shape[1:], torch.promote_types(latents.dtype, torch.float32))[0]
        if index in steps:
            yield Visit(latents, t, s, drawn, prompts)
        if index < last:
            step = policy.step(latents, t, s, prompts)
            latents = (step.mean + step.std * drawn).to(policy.latent_dtype)
