"""A stock UNet of a few thousand random weights, with as much of a backbone around it as a policy looks at."""

import torch
from diffusers import UNet2DConditionModel

from backbones.gaussian import Means
from lpobench.sampling import VariancePreserving


class UNetBackbone:
    """A prompt is a number, by which the same three words are multiplied. The weights are always the same."""

    name, latent_space, latent_shape = "unet", "none", (4, 8, 8)
    lora_targets = ("to_q", "to_k", "to_v", "to_out.0")
    device = torch.device("cpu")

    def __init__(self, dtype: torch.dtype = torch.float32):
        self.schedule = VariancePreserving.scaled_linear()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.denoiser = UNet2DConditionModel(
                sample_size=8,
                block_out_channels=(8, 16),
                norm_num_groups=4,
                cross_attention_dim=8,
                attention_head_dim=4,
                layers_per_block=1,
                down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
                up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            ).to(dtype)

    def encode_prompt(self, prompts):
        return Means(torch.tensor([float(p or 0) for p in prompts]))

    def predict(self, latents, t, conditioning):
        words = torch.linspace(-1, 1, 24).view(3, 8)
        context = (conditioning.mu.view(-1, 1, 1) * words).to(latents.dtype)
        return self.denoiser(latents, t, context).sample

    def encode(self, images): ...
    def decode(self, latents): ...
    def export_lora(self, folder): ...
    def export_denoiser(self, folder): ...

    def load_checkpoint(self, path, *, check_only=False): ...

    def release_text_encoders(self): ...
