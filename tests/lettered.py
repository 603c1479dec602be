"""A backbone for rewards that look at images: whatever the prompt, it answers at once and by a formula."""

from dataclasses import dataclass

import tiny_unet
import torch
from torch import Tensor, nn

from backbones.gaussian import Gaussian
from lpobench.sampling.schedule import VariancePreserving
from lpobench.types import Conditioning


@dataclass(frozen=True)
class Letters(Conditioning):
    count: Tensor


class Denoiser(nn.Module):
    """Predicts a tenth of the number of letters everywhere: x0 is x_t less sigma times that, over alpha."""

    def __init__(self):
        super().__init__()
        self.tenth = nn.Parameter(torch.tensor(0.1))

    def forward(self, latents: Tensor, count: Tensor) -> Tensor:
        return (self.tenth * count).view(-1, 1, 1, 1).expand_as(latents)


class Lettered(Gaussian):
    """Images are the first three channels, each latent pixel two pixels wide."""

    name, latent_shape, latent_space = "letters", tiny_unet.LATENT_SHAPE, tiny_unet.LATENT_SPACE

    def __init__(self):
        super().__init__(VariancePreserving.scaled_linear())
        self.denoiser = Denoiser()

    def encode_prompt(self, prompts: list[str]) -> Letters:
        return Letters(torch.tensor([float(len(prompt)) for prompt in prompts]))

    def predict(self, latents: Tensor, t: Tensor, conditioning: Letters) -> Tensor:
        return self.denoiser(latents, conditioning.count)

    def decode(self, latents: Tensor) -> Tensor:
        return latents[:, :3].sigmoid().repeat_interleave(2, -1).repeat_interleave(2, -2)
