"""The live SPM: scores the images that noisy latents promise, remembering the prompts' encodings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from rewards.lrm.noise import NoiseMap
from rewards.spm.model import StepAwareCLIP

if TYPE_CHECKING:
    from lpobench.sampling.rollout import Noisy


class StepAwareReward:
    """Reads `noisy.images`, the decoded x0 estimate: one guided denoiser call, which a fork's next step reuses, and
    one decode; finished latents are only decoded, and scored at t = 0.
    """

    latent_space = None
    differentiable = True
    cache_size = 4096
    """Prompts remembered; of a ViT-H each takes 4 kB."""

    def __init__(self, model: StepAwareCLIP, noise: NoiseMap):
        self.model, self.noise = model.eval().requires_grad_(False), noise
        self.cache: dict[str, Tensor] = {}

    def score(self, noisy: Noisy) -> Float[Tensor, " n"]:
        device = self.model.device
        known = self.encoded(noisy.prompts)
        text = torch.stack([known[prompt] for prompt in noisy.prompts])
        # t = -1, the end of some grids, is no timestep an SPM is trained on
        t = torch.zeros_like(noisy.t) if noisy.clean else self.noise(noisy.latents, noisy.t.clamp(min=0))[1]
        scores = self.model(noisy.images.to(device), t.to(device), text)
        return scores.to(noisy.latents.device)

    @torch.no_grad()
    def encoded(self, prompts: list[str]) -> dict[str, Float[Tensor, " projection"]]:
        """Prompt -> encoding. One at a time: neighbours in a batch would change a score's last bits."""
        unseen = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self.cache]
        if len(self.cache) + len(unseen) > self.cache_size:
            self.cache = {prompt: self.cache[prompt] for prompt in prompts if prompt in self.cache}
        for prompt in unseen:
            self.cache[prompt] = self.model.encode_prompts([prompt])[0]
        return self.cache
