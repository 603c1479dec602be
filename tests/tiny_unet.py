"""A UNet backbone small enough for tests, with random weights, and pairs whose winner is easy to tell."""

import string
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from lpobench.data.pairs import LatentPairs, PairsMeta
from lpobench.sampling.schedule import VariancePreserving

LATENT_SPACE, LATENT_SHAPE = "test-f8c4", (4, 8, 8)
PROMPTS = ("red", "blue", "a star")


def tokenizer() -> CLIPTokenizer:
    letters = [*string.ascii_lowercase, *(f"{letter}</w>" for letter in string.ascii_lowercase)]
    vocab = {token: i for i, token in enumerate([*letters, "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocab=vocab, merges=[], model_max_length=12)


def unet(channels: tuple[int, ...] = (16, 32), seed: int = 0) -> UNet2DConditionModel:
    torch.manual_seed(seed)
    attended = len(channels) - 1
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=channels,
        layers_per_block=1,
        cross_attention_dim=16,
        attention_head_dim=8,
        norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock2D",) * attended + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * attended,
    ).eval()


def backbone(channels: tuple[int, ...] = (16, 32), latent_space: str = LATENT_SPACE) -> SimpleNamespace:
    tokens = tokenizer()
    denoiser = unet(channels)
    config = CLIPTextConfig(
        vocab_size=len(tokens),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=12,
        bos_token_id=tokens.bos_token_id,
        eos_token_id=tokens.eos_token_id,
        pad_token_id=tokens.pad_token_id,
    )
    return SimpleNamespace(
        name="tiny-test",
        schedule=VariancePreserving.scaled_linear(),
        latent_shape=LATENT_SHAPE,
        latent_space=latent_space,
        device=torch.device("cpu"),
        unet=denoiser,
        denoiser=denoiser,
        text_encoder=CLIPTextModel(config).eval(),
        tokenizer=tokens,
    )


def noisy(prompts: list[str], t: float = 401, seed: int = 0) -> SimpleNamespace:
    """What a reward reads of lpobench.sampling.rollout.Noisy."""
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn((len(prompts), *LATENT_SHAPE), generator=generator)
    return SimpleNamespace(latents=latents, t=torch.full((len(prompts),), t), prompts=prompts)


def pairs(num: int = 8, split: str = "train", seed: int = 0, **columns) -> LatentPairs:
    """Pairs of constant latents, +1 for the winner, -1 for the loser; every fourth pair is a tie."""
    generator = np.random.default_rng(seed)
    winner = generator.integers(0, 2, num)
    label_0 = np.where(np.arange(num) % 4 == 3, 0.5, 1.0 - winner)
    table = pd.DataFrame(
        {
            "caption": [PROMPTS[i % len(PROMPTS)] for i in range(num)],
            "image_0_uid": [f"{split}-{2 * i}" for i in range(num)],
            "image_1_uid": [f"{split}-{2 * i + 1}" for i in range(num)],
            "label_0": label_0,
            "label_1": 1 - label_0,
            "num_example_per_prompt": 1,
            "has_label": True,
            "split": split,
            "aesthetic_gap": 0.1,
            "clipscore_gap": 0.01,
            "vqascore_gap": 0.01,
            "true_preference_0": 1.0 - 2 * winner,
            "true_preference_1": 2.0 * winner - 1,
        }
    ).assign(**columns)
    sign = torch.tensor(np.stack([1.0 - 2 * winner, 2.0 * winner - 1], 1).ravel(), dtype=torch.float16)
    latents = sign.view(-1, 1, 1, 1).expand(-1, *LATENT_SHAPE).contiguous()
    uids = [f"{split}-{i}" for i in range(2 * num)]
    return LatentPairs(table, latents, uids, PairsMeta(latent_space=LATENT_SPACE, backbone="tiny-test"))


def pairs_folder(folder, num: int = 16):
    """All three splits, written."""
    parts = [
        pairs(num, split, seed) for seed, split in enumerate(("train", "validation_unique", "test_unique"))
    ]
    table = pd.concat([part.table for part in parts], ignore_index=True)
    latents = torch.cat([part.latents for part in parts])
    uids = [uid for part in parts for uid in part.uids]
    LatentPairs(table, latents, uids, parts[0].meta).write(folder)
    return folder
