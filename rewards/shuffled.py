"""A reward's scores permuted among the candidates of each prompt."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from lpobench.types import RewardModel

if TYPE_CHECKING:
    from lpobench.sampling.rollout import Noisy


class ShuffledReward:
    """Rows come candidate-major (prompts * k), as forks lay them out; scores stay with their prompt.

    Permutations are uniform, so the expected correlation with the true score is exactly 0. Their generator
    is seeded with the latents themselves: no state to checkpoint, and the same rows score the same again.
    """

    def __init__(self, base: RewardModel, seed: int):
        self.base, self.seed = base, seed
        self.latent_space = base.latent_space

    differentiable = False

    @torch.no_grad()
    def score(self, noisy: Noisy) -> Float[Tensor, " n"]:
        b = num_prompts(noisy.prompts)
        scores = self.base.score(noisy).unflatten(0, (-1, b))
        latents = noisy.latents.unflatten(0, (-1, b))
        order = torch.stack([self._permutation(latents[:, column]) for column in range(b)], 1)
        return scores.gather(0, order.to(scores.device)).flatten()

    def _permutation(self, latents: Float[Tensor, "k c h w"]) -> Tensor:
        content = latents.float().cpu().numpy().tobytes()
        digest = hashlib.blake2b(content, key=str(self.seed).encode(), digest_size=7).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "little"))
        return torch.randperm(len(latents), generator=generator)


def num_prompts(prompts: list[str]) -> int:
    """b of a list that is b prompts repeated k times: its smallest period."""
    sizes = (b for b in range(1, len(prompts) + 1) if len(prompts) % b == 0)
    return next(b for b in sizes if prompts == prompts[:b] * (len(prompts) // b))
