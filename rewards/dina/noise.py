"""Noise of a rectified flow at a level: x = (1 - sigma) x0 + sigma eps. Levels are sigma, in [0, 1]."""

from __future__ import annotations

import hashlib

import torch
from jaxtyping import Float
from torch import Tensor

NUM_TRAIN = 1000


def shifted_grid(shift: float) -> Float[Tensor, " 1000"]:
    """Levels of the backbone's training, ascending: 1/1000 to 1, shifted towards noise."""
    sigma = torch.arange(1, NUM_TRAIN + 1, dtype=torch.float64) / NUM_TRAIN
    return (shift * sigma / (1 + (shift - 1) * sigma)).float()


def nearest(levels: Float[Tensor, " n"], grid: Float[Tensor, " m"]) -> Float[Tensor, " n"]:
    """The grid's level closest to each."""
    return grid[(levels[:, None] - grid).abs().argmin(1)]


def draw(prompts: list[str], shape: torch.Size, num: int, seed: int) -> Float[Tensor, "{num} n c h w"]:
    """Standard normal, `num` per row, on the CPU: the prompt's own, whichever rows are around it.

    Candidates of one prompt get the same noise, as a pair does in training: what they differ in is not noise.
    """
    noise = {prompt: _of_prompt(prompt, shape, num, seed) for prompt in dict.fromkeys(prompts)}
    return torch.stack([noise[prompt] for prompt in prompts], 1)


def raise_to(
    latents: Float[Tensor, "n c h w"],
    sigma: Float[Tensor, " n"],
    level: float,
    noise: Float[Tensor, "n c h w"],
) -> tuple[Float[Tensor, "n c h w"], Float[Tensor, " n"]]:
    """Latents at `sigma` brought to `level` (where that is higher), and where they are then.

    With a = (1 - level) / (1 - sigma) the image keeps its share: a x + sqrt(level^2 - (a sigma)^2) noise. Clean
    latents, sigma 0, become (1 - level) x0 + level noise.
    """
    reached = sigma.clamp(min=level)
    share = torch.where(sigma < level, (1 - reached) / (1 - sigma).clamp(min=1e-6), 1.0)
    added = (reached.square() - (share * sigma).square()).clamp(min=0).sqrt()
    columns = lambda values: values.view(-1, 1, 1, 1)
    return columns(share) * latents + columns(added) * noise, reached


def _of_prompt(prompt: str, shape: torch.Size, num: int, seed: int) -> Tensor:
    digest = hashlib.blake2b(prompt.encode(), key=str(seed).encode(), digest_size=7).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "little"))
    return torch.randn((num, *shape), generator=generator)
