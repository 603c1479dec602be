"""Images to be scored: deterministic sampling (eta 0) from noise that belongs to the prompt, not the batch.

The noise of an image follows from (prompt id, image index, seed) alone, so the same picture comes out at any
batch size and the base and the method are compared on the same noise. Equality across batch sizes is exact in
the noise; kernels may round differently for another batch shape (float32 on a CPU: about 1e-6).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lpobench import sampling
from lpobench.launch import memory
from lpobench.progress import progress as progress_bar
from lpobench.sampling import Policy
from lpobench.spec import EvalSettings, SamplingSettings
from lpobench.types import Backbone, Prompt

Sampler = Callable[[Policy, Tensor, list[str], Tensor, list[torch.Generator]], Tensor]
"""Finished latents from noise: policy, latents, prompts, timesteps, and a CPU generator for each row."""


@dataclass(frozen=True)
class Batch:
    """Finished images in [0, 1] on the policy's device; entry i is image `indices[i]` of `prompts[i]`."""

    prompts: list[Prompt]
    indices: list[int]
    images: Float[Tensor, "n 3 H W"]


def generate(
    policy: Policy,
    prompts: Sequence[Prompt],
    settings: EvalSettings,
    *,
    reference: bool,
    sampler: Sampler | None = None,
    progress: str | None = None,
    halved: Callable[[int], None] = lambda size: None,
) -> Iterator[Batch]:
    """`images_per_prompt` images of every prompt, `batch_size` at a time, by the policy or by its reference.

    `settings` decides steps and guidance, not the policy; `sampler` takes the place of plain sampling at eta 0,
    and is given a generator for each image. `progress` describes the bar on stderr; None shows
    none. A batch that does not fit in memory is halved and tried again: `halved` is told the new size.
    """
    todo = [(prompt, index) for prompt in prompts for index in range(settings.images_per_prompt)]
    with progress_bar(len(todo), progress or "", enabled=progress is not None) as advance:
        size = settings.batch_size
        while todo:
            chosen, indices = map(list, zip(*todo[:size], strict=True))
            try:
                images = _images(policy, chosen, indices, settings, reference, sampler or at_eta_0)
                batch = Batch(chosen, indices, images)
            except RuntimeError as error:
                if len(chosen) == 1 or not memory.is_out_of_memory(error):
                    raise
                size = (len(chosen) + 1) // 2
            else:
                yield batch
                todo = todo[len(chosen) :]
                advance(len(chosen))
                continue
            memory.free()  # here, where the error no longer holds what it was raised among
            halved(size)


def noise(shape: tuple[int, ...], prompt_id: str, index: int, seed: int) -> Tensor:
    """Standard normal float32 noise on the CPU, the same on every machine."""
    return torch.randn(shape, generator=_generator(prompt_id, index, seed))


def at_eta_0(
    policy: Policy, latents: Tensor, prompts: list[str], timesteps: Tensor, generators: list[torch.Generator]
) -> Tensor:
    """Deterministic sampling along the timesteps."""
    return sampling.at_eta_0(policy, latents, prompts, timesteps)


def _generator(prompt_id: str, index: int, seed: int) -> torch.Generator:
    """What an image draws its noise from, on the CPU."""
    digest = hashlib.blake2b(json.dumps([prompt_id, index, seed]).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


def fingerprint(backbone: Backbone, prompt: str, guidance_scale: float) -> str:
    """Hash of an image the backbone makes in two steps; no adapter may be on it yet.

    It changes with any weight that reaches an image, with the precision and with the library's arithmetic,
    whatever files the weights came from: the content key of everything that is made from the untouched base.
    """
    policy = Policy(backbone, SamplingSettings(eta=0.0))
    settings = EvalSettings(num_steps=2, guidance_scale=guidance_scale)
    image = _images(policy, [Prompt(prompt, "probe")], [0], settings, False, at_eta_0)
    return hashlib.blake2b(image.float().cpu().numpy().tobytes(), digest_size=16).hexdigest()


def _images(
    policy: Policy,
    prompts: list[Prompt],
    indices: list[int],
    settings: EvalSettings,
    reference: bool,
    sampler: Sampler,
) -> Float[Tensor, "n 3 H W"]:
    backbone = policy.backbone
    generators = [_generator(p.id, i, settings.seed) for p, i in zip(prompts, indices, strict=True)]
    starts = [torch.randn(backbone.latent_shape, generator=generator) for generator in generators]
    latents, texts = torch.stack(starts).to(backbone.device), [prompt.text for prompt in prompts]
    grid = backbone.schedule.timesteps(settings.num_steps).to(backbone.device)
    with torch.no_grad(), _variant(policy, reference), _guidance(policy, settings.guidance_scale):
        return policy.decode(sampler(policy, latents, texts, grid, generators))


@contextmanager
def _variant(policy: Policy, reference: bool) -> Iterator[None]:
    if reference:
        with policy.reference():
            yield
    else:
        yield


@contextmanager
def _guidance(policy: Policy, scale: float) -> Iterator[None]:
    """The evaluation's guidance in place of the training rollout's."""
    kept, policy.guidance_scale = policy.guidance_scale, scale
    try:
        yield
    finally:
        policy.guidance_scale = kept
