"""What an SPM is shown in training (SPO sec. 3.2, released code): decoded x0 estimates of noised images.

A pair's two images get the same t and the same noise; one guided denoiser call gives each one's estimate. No SPM
weight takes part in that, so estimates can be made once and used again: a bank.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from lpobench.data.pairs import LatentPairs, PairBatch
from lpobench.launch import ranks
from lpobench.plugin import UserError
from lpobench.progress import progress
from lpobench.sampling import Policy
from rewards.pair_scorer import Scores
from rewards.spm.model import StepAwareCLIP

AT_ONCE = 16
"""Estimates made in one batch."""
MOST_BYTES = 2**34


@dataclass(frozen=True)
class Guided:
    """What a policy reads of sampling settings; of these, estimates depend on the guidance alone."""

    guidance_scale: float
    num_steps: int = 20
    rule: str = "ddim"
    eta: float = 1.0


@torch.no_grad()
def estimate(
    policy: Policy,
    latents: Float[Tensor, "n c h w"],
    noise: Float[Tensor, "n c h w"],
    t: Float[Tensor, " n"],
    prompts: list[str],
) -> Float[Tensor, "n 3 H W"]:
    """Images in [0, 1], on the policy's device, of the x0 estimates at alpha_t x0 + sigma_t noise."""
    device = policy.backbone.device
    alpha, sigma = (level.view(-1, 1, 1, 1) for level in policy.backbone.schedule.levels(t))
    noised = (alpha * latents + sigma * noise).to(device, policy.latent_dtype)
    with torch.autocast(device.type, enabled=False):
        return policy.decode(policy.denoise(noised, t.to(device), prompts)[0])


def pair_scores(
    model: StepAwareCLIP,
    policy: Policy,
    batch: PairBatch,
    t: Float[Tensor, " n"],
    noise: Float[Tensor, "1 n c h w"],
) -> Scores:
    """Scores of both images of each pair, on estimates made here. A distinct prompt is encoded once."""
    images = [
        estimate(policy, latents[rows], noise[0, rows], t[rows], [batch.prompts[i] for i in rows.tolist()])
        for latents in (batch.latents_0, batch.latents_1)
        for rows in torch.arange(len(t)).split(AT_ONCE)
    ]
    return scores_of(model, torch.cat(images), t, batch.prompts)


def scores_of(
    model: StepAwareCLIP, images: Float[Tensor, "2n 3 H W"], t: Float[Tensor, " n"], prompts: list[str]
) -> Scores:
    """Scores of n pairs, given all first images and then all second ones."""
    distinct = {prompt: row for row, prompt in enumerate(dict.fromkeys(prompts))}
    text = model.encode_prompts(list(distinct))
    rows = torch.tensor([distinct[prompt] for prompt in prompts] * 2, device=model.device)
    first, second = model(images.to(model.device), t.repeat(2).to(model.device), text[rows]).chunk(2)
    return first, second


@dataclass(frozen=True)
class Bank:
    """Estimates of all images of some pairs, made once, `draws` times over; 8 bits a value.

    In one draw, all images of a prompt have the same t and noise. As a look (rewards/fitting.py) it takes a random
    draw for each pair.
    """

    model: StepAwareCLIP
    dtype: torch.dtype
    """bfloat16: autocast."""
    images: UInt8[Tensor, "draws m 3 H W"]
    t: Float[Tensor, "draws p"]
    image_of: Int[Tensor, "2 pairs"]
    prompt_of: Int[Tensor, " pairs"]

    @classmethod
    def make(
        cls,
        model: StepAwareCLIP,
        policy: Policy,
        pairs: LatentPairs,
        timesteps: Float[Tensor, " k"],
        *,
        draws: int,
        seed: int,
        dtype: torch.dtype,
    ) -> Self:
        """t is uniform over `timesteps`. Each process makes its part. Raises UserError for more than 16 GiB."""
        prompt_of, captions = pd.factorize(pairs.table["caption"])
        both = np.stack([pairs.image_index.ravel(), np.tile(prompt_of, 2)])
        wanted, image_of = np.unique(both, axis=1, return_inverse=True)
        mine = torch.as_tensor(wanted)[:, ranks.share(wanted.shape[1])]
        generator, images, times = torch.Generator().manual_seed(seed), [], []
        with progress(draws * mine.shape[1], "estimates", enabled=ranks.is_main()) as advance:
            for _ in range(draws):
                t = timesteps[torch.randint(len(timesteps), (len(captions),), generator=generator)]
                noise = torch.randn((len(captions), *pairs.latents.shape[1:]), generator=generator)
                parts = []
                for image, prompt in zip(*(part.split(AT_ONCE) for part in mine), strict=True):
                    texts = [captions[i] for i in prompt.tolist()]
                    made = estimate(policy, pairs.latents[image].float(), noise[prompt], t[prompt], texts)
                    parts.append((made * 255).round().to(torch.uint8).cpu())
                    _check_size(draws * wanted.shape[1] * made[0].numel())
                    advance(len(image))
                images.append(torch.cat(ranks.gather(torch.cat(parts))))
                times.append(t)
        pairs_of = torch.as_tensor(image_of).view(2, -1)
        return cls(
            model, dtype, torch.stack(images), torch.stack(times), pairs_of, torch.as_tensor(prompt_of)
        )

    def __call__(self, pairs: LatentPairs, rows: Tensor, mine: slice, generator: torch.Generator) -> Scores:
        draw = torch.randint(len(self.images), (len(rows),), generator=generator)[mine]
        rows = rows[mine]
        if not len(rows):
            return torch.empty(0), torch.empty(0)
        images = torch.cat([self.images[draw, self.image_of[side, rows]] for side in (0, 1)]) / 255
        prompts = pairs.table["caption"].iloc[rows.numpy()].tolist()
        with torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            return scores_of(self.model, images, self.t[draw, self.prompt_of[rows]], prompts)


def _check_size(num_bytes: int) -> None:
    if num_bytes > MOST_BYTES:
        raise UserError(
            f"training.bank would hold {num_bytes / 2**30:.0f} GiB of images; lower it, or set it to 0 to make "
            "estimates as they are needed"
        )
