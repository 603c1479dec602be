"""A backbone whose exact denoiser is known: x0 ~ N(mu(prompt), scale^2 I). It loads nothing, and tests prefer
it.

A prompt is a number, mu; "" is 0. Its one adapter is a shift of mu, zero at the reference; its one weight is scale.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lpobench.plugin import UserError
from lpobench.sampling.schedule import Schedule
from lpobench.sampling.switched import Switched
from lpobench.types import Conditioning


@dataclass(frozen=True)
class Means(Conditioning):
    mu: Float[Tensor, " n"]


class GaussianDenoiser(nn.Module, Switched):
    """The posterior mean of x0, or eps, or velocity, given x_t."""

    def __init__(self, schedule: Schedule, scale: float):
        super().__init__()
        self.schedule, self.as_policy = schedule, True
        self.scale = nn.Parameter(torch.tensor([scale]))

    def add_adapter(self, config: object) -> None:
        self.shift = nn.Parameter(self.scale.new_zeros(1))

    def forward(self, latents: Tensor, t: Tensor, mu: Tensor) -> Tensor:
        alpha, sigma = (level.to(latents.dtype).view(-1, 1, 1, 1) for level in self.schedule.levels(t))
        mu = mu.view(-1, 1, 1, 1)
        if self.as_policy and "shift" in self._parameters:
            mu = mu + self.shift
        residual = (latents - alpha * mu) / (alpha**2 * self.scale**2 + sigma**2)
        return self.schedule.target(mu + alpha * self.scale**2 * residual, sigma * residual, t)


class Gaussian:
    """See the module; decoded images are grey, brighter for larger latents."""

    name = "gaussian"
    latent_shape = (1, 4, 4)
    latent_space = "gaussian"
    lora_targets = ("mu",)

    def __init__(self, schedule: Schedule, scale: float = 0.5, dtype: torch.dtype = torch.float32):
        self.schedule, self.device = schedule, torch.device("cpu")
        self.denoiser = GaussianDenoiser(schedule, scale).to(dtype)

    def encode_prompt(self, prompts: list[str]) -> Means:
        return Means(
            torch.tensor([float(prompt or 0) for prompt in prompts], dtype=self.denoiser.scale.dtype)
        )

    def predict(self, latents: Tensor, t: Tensor, conditioning: Means) -> Tensor:
        return self.denoiser(latents, t, conditioning.mu)

    def encode(self, images: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n c h w"]:
        return images.mean(1, keepdim=True).logit()

    def decode(self, latents: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 3 H W"]:
        return latents.sigmoid().expand(-1, 3, -1, -1)

    def export_lora(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path, shift = folder / "pytorch_lora_weights.safetensors", self.denoiser.shift.detach()
        save_file({"shift": shift}, path)
        if not torch.equal(load_file(path)["shift"], shift):
            raise RuntimeError(f"{path} does not hold the trained shift")

    def export_denoiser(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path, scale = folder / "diffusion_pytorch_model.safetensors", self.denoiser.scale.detach()
        save_file({"scale": scale}, path)
        if not torch.equal(load_file(path)["scale"], scale):
            raise RuntimeError(f"{path} does not hold the trained scale")

    def release_text_encoders(self) -> None:
        """Prompts are numbers: nothing to free."""

    def load_checkpoint(self, path: Path, *, check_only: bool = False) -> str:
        raise UserError(f"checkpoint {path}: the {self.name} backbone has no weights to replace")
