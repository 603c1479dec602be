"""A random SD3 transformer of four blocks, a random backbone around one, and DiNa-LRMs of it, small for tests."""

import copy
from pathlib import Path
from types import SimpleNamespace

import made_pipelines
import tiny_unet
import torch
from diffusers import SD3Transformer2DModel

from backbones._diffusers.sd3 import StableDiffusion3
from lpobench.data.pairs import LatentPairs
from lpobench.sampling import Policy
from rewards.dina import DiNa, DiNaTraining
from rewards.dina.folder import save
from rewards.dina.model import DiNaModel
from rewards.dina.train import describe, new_model

CPU = torch.device("cpu")
PROMPTS = made_pipelines.PROMPTS
SIZES = {
    "sample_size": 8,
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 16,
    "num_layers": 4,
    "attention_head_dim": 8,
    "num_attention_heads": 4,
    "joint_attention_dim": 40,
    "caption_projection_dim": 32,
    "pooled_projection_dim": 40,
    "pos_embed_max_size": 8,
    "qk_norm": "rms_norm",
    "dual_attention_layers": (0,),
}
QUICK = DiNaTraining(
    steps=4,
    batch_size=4,
    learning_rate=3e-3,
    warmup=1,
    rank=4,
    validate_every=2,
    validation_pairs=8,
    half=False,
)


def transformer(seed: int = 0) -> SD3Transformer2DModel:
    torch.manual_seed(seed)
    return SD3Transformer2DModel(**SIZES).eval()


def around(pipeline: Path) -> StableDiffusion3:
    """A random SD3.5 without T5, as a run loads it, with the transformer above."""
    loaded = made_pipelines.load("sd35", pipeline)
    loaded.transformer = transformer()
    return loaded


def around_again(backbone: StableDiffusion3) -> StableDiffusion3:
    """Another backbone with the same parts and a transformer of its own."""
    again = copy.copy(backbone)
    again.transformer = transformer()
    return again


def policy(backbone: StableDiffusion3, *, adapter: bool = True, guidance_scale: float = 1.0) -> Policy:
    """One whose adapter, if it has one, is not a no-op."""
    sampling = SimpleNamespace(num_steps=4, guidance_scale=guidance_scale, rule="flow_sde", eta=0.7)
    made = Policy(
        backbone, sampling, SimpleNamespace(rank=2, alpha=None, init="gaussian") if adapter else None
    )
    torch.manual_seed(1)
    for parameter in made.trained:
        torch.nn.init.normal_(parameter, std=0.1)
    return made


def model(backbone: StableDiffusion3, **training) -> DiNaModel:
    """Random, the adapter too, and the layers that start at zero."""
    config = describe(DiNa(training=QUICK.model_copy(update=training)), backbone, seed=0)
    made = new_model(config, backbone, seed=0)
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in made.trainable().values():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made.eval()


def folder_of(made: DiNaModel, backbone: StableDiffusion3, folder: Path, **training) -> Path:
    config = describe(DiNa(training=QUICK.model_copy(update=training)), backbone, seed=0)
    save(made, folder, config, torch.float32)
    return folder


def latents(backbone: StableDiffusion3, num: int, seed: int = 0) -> torch.Tensor:
    return torch.randn((num, *backbone.latent_shape), generator=torch.Generator().manual_seed(seed))


def pairs(
    num: int, backbone: StableDiffusion3, split: str = "train", seed: int = 0, **columns
) -> LatentPairs:
    """Pairs of constant latents in the backbone's shape and space; winners are +1."""
    made = tiny_unet.pairs(num, split, seed, **columns)
    shaped = made.latents[:, :1, :1, :1].expand(-1, *backbone.latent_shape).contiguous()
    meta = made.meta.model_copy(update={"latent_space": backbone.latent_space})
    return LatentPairs(made.table, shaped, made.uids, meta)
