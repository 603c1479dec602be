"""All weights of a small UNet trained by the loop, on pairs that tell noise around 1 from noise around -1."""

from types import SimpleNamespace

import torch
from unet_backbone import UNetBackbone

from lpobench.learning import ImagePairs
from lpobench.learning.train import train
from lpobench.sampling import Policy
from lpobench.signals import StopFlag
from lpobench.spec import TrainSettings
from lpobench.types import Context
from methods.diffusion_dpo import DiffusionDPO

GUIDED = SimpleNamespace(num_steps=20, guidance_scale=5.0, rule="ddim", eta=1.0)
INPUTS = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([951.0, 51.0])


class Pairs:
    """Winners are noise around 1, losers around -1."""

    def __len__(self):
        return 4

    def rows(self, numbers):
        noise = torch.randn((4, 4, 8, 8), generator=torch.Generator().manual_seed(2))[numbers]
        return ImagePairs(1 + noise, noise - 1, ["1"] * len(numbers))


def output(policy: Policy) -> torch.Tensor:
    with torch.no_grad():
        return policy.denoise(*INPUTS, ["1", "2"])[1]


def referred(policy: Policy) -> torch.Tensor:
    with policy.reference():
        return output(policy)


def trained(folder, policy: Policy, num_updates: int = 3, **changes) -> list[float]:
    """Diffusion-DPO by the loop; returns the losses of this process's updates."""
    quick = {"num_updates": num_updates, "prompts_per_round": 4, "minibatch": 4, "learning_rate": 1e-3}
    losses, ctx = [], Context(policy, torch.Generator())

    class Heard(DiffusionDPO):
        """Says what it lost."""

        def loss(self, ctx, rows):
            found = super().loss(ctx, rows)
            losses.append(found[0].item())
            return found

    settings = TrainSettings(**{**quick, "parameters": "all", "checkpoint_every": 1, **changes})
    options = {"seed": 0, "prompts": [], "pairs": Pairs(), "fingerprint": "all", "progress": False}
    result = train(Heard(beta=100.0), ctx, settings, folder, stop=StopFlag(), **options)
    assert result.parameters == sum(weight.numel() for weight in UNetBackbone().denoiser.parameters())
    return losses
