"""The live LRM: scores noisy latents under their prompts, remembering the prompts' encodings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from rewards.lrm.model import LatentRewardModel, TextFeatures
from rewards.lrm.noise import NoiseMap

if TYPE_CHECKING:
    from lpobench.sampling.rollout import Noisy


class LatentReward:
    """See the module."""

    cache_size = 1024
    """Prompts remembered; on SD 1.5 in float16 each takes 118 kB."""

    def __init__(self, model: LatentRewardModel, latent_space: str, noise: NoiseMap):
        self.model = model.eval().requires_grad_(False)
        self.latent_space, self.noise = latent_space, noise
        self.cache: dict[str, TextFeatures] = {}

    differentiable = True

    def score(self, noisy: Noisy) -> Float[Tensor, " n"]:
        device = self.model.device
        known = self.encoded(["", *noisy.prompts])
        columns = zip(*(known[prompt] for prompt in noisy.prompts), strict=True)
        text = TextFeatures(*(torch.stack(column) for column in columns))
        # t = -1, the end of some grids, is no timestep the blocks know
        latents, t = self.noise(noisy.latents.to(device), noisy.t.to(device).clamp(min=0))
        scores = self.model(latents, t, text, known[""])
        return scores.to(noisy.latents.device)

    def encoded(self, prompts: list[str]) -> dict[str, TextFeatures]:
        """Prompt -> encoding. One at a time: neighbours in a batch would change a score's last bits."""
        unseen = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self.cache]
        if len(self.cache) + len(unseen) > self.cache_size:
            self.cache = {prompt: self.cache[prompt] for prompt in prompts if prompt in self.cache}
        for prompt in unseen:
            self.cache[prompt] = TextFeatures(*(row[0] for row in self.model.encode_prompts([prompt])))
        return self.cache
