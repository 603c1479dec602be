"""Random numbers of a rollout, the same whatever part of its prompts a process makes."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lpobench.launch.ranks import part
from lpobench.sampling.policy import Policy
from lpobench.sampling.step import StepDistribution


@dataclass(frozen=True)
class Noise:
    """Random numbers drawn for all `num` prompts of a round, kept for those that are `mine`."""

    generator: torch.Generator
    device: torch.device
    num: int
    mine: slice

    @classmethod
    def of(cls, policy: Policy, num: int, generator: torch.Generator) -> "Noise":
        """Draws start on the policy's device, whichever the generator is on."""
        device = policy.backbone.device
        return cls(_on(device, generator), device, num, part(num, *policy.shard))

    def start(self, policy: Policy, k: int) -> Float[Tensor, "{k} b c h w"]:
        """Pure noise, as stored, k draws per prompt."""
        return self.normal(k, policy.backbone.latent_shape, torch.float32).to(policy.latent_dtype)

    def sample(self, step: StepDistribution, k: int) -> Float[Tensor, "{k} b c h w"]:
        """k draws of each row of a step, whose rows are prompts."""
        return step.mean + step.std * self.normal(k, step.mean.shape[1:], step.mean.dtype)

    def sample_paths(self, step: StepDistribution, k: int) -> Float[Tensor, "n c h w"]:
        """One draw of each row of a step, whose rows are k times the prompts."""
        return step.mean + step.std * self.normal(k, step.mean.shape[1:], step.mean.dtype).flatten(0, 1)

    def choose(self, k: int) -> Int[Tensor, " b"]:
        """A candidate for each prompt."""
        return torch.randint(k, (self.num,), generator=self.generator, device=self.device)[self.mine]

    def normal(self, k: int, shape: tuple[int, ...], dtype: torch.dtype) -> Float[Tensor, "{k} b c h w"]:
        """Standard normal numbers, k draws of this shape per prompt."""
        size = (k, self.num, *shape)
        return torch.randn(size, generator=self.generator, device=self.device, dtype=dtype)[:, self.mine]


def _on(device: torch.device, generator: torch.Generator) -> torch.Generator:
    """A generator on the device, seeded from the given one: noise drawn on the CPU would be copied at every
    step.
    """
    if generator.device.type == device.type:
        return generator
    seed = torch.randint(2**62, (), generator=generator, device=generator.device)
    return torch.Generator(device).manual_seed(seed.item())
