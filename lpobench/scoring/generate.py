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
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from lpobench.launch import memory
from lpobench.progress import progress as progress_bar
from lpobench.sampling import Policy
from lpobench.spec import EvalSettings, SamplingSettings
from lpobench.types import Backbone, Prompt


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
    progress: str | None = None,
    halved: Callable[[int], None] = lambda size: None,
) -> Iterator[Batch]:
    """`images_per_prompt` images of every prompt, `batch_size` at a time, by the policy or by its reference.

    `settings` decides steps and guidance, not the policy. `progress` describes the bar on stderr; None shows
    none. A batch that does not fit in memory is halved and tried again: `halved` is told the new size.
    """
    todo = [(prompt, index) for prompt in prompts for index in range(settings.images_per_prompt)]
    with progress_bar(len(todo), progress or "", enabled=progress is not None) as advance:
        size = settings.batch_size
        while todo:
            chosen, indices = map(list, zip(*todo[:size], strict=True))
            try:
                batch = Batch(chosen, indices, _images(policy, chosen, indices, settings, reference))
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
    digest = hashlib.blake2b(json.dumps([prompt_id, index, seed]).encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
    return torch.randn(shape, generator=generator)


def fingerprint(backbone: Backbone, prompt: str, guidance_scale: float) -> str:
    """Hash of an image the backbone makes in two steps; no adapter may be on it yet.

    It changes with any weight that reaches an image, with the precision and with the library's arithmetic,
    whatever files the weights came from: the content key of everything that is made from the untouched base.
    """
    policy = Policy(backbone, SamplingSettings(eta=0.0))
    settings = EvalSettings(num_steps=2, guidance_scale=guidance_scale)
    image = _images(policy, [Prompt(prompt, "probe")], [0], settings, reference=False)
    return hashlib.blake2b(image.float().cpu().numpy().tobytes(), digest_size=16).hexdigest()


def _images(
    policy: Policy, prompts: list[Prompt], indices: list[int], settings: EvalSettings, reference: bool
) -> Float[Tensor, "n 3 H W"]:
    backbone = policy.backbone
    starts = [
        noise(backbone.latent_shape, p.id, i, settings.seed) for p, i in zip(prompts, indices, strict=True)
    ]
    latents, texts = torch.stack(starts).to(backbone.device), [prompt.text for prompt in prompts]
    grid = backbone.schedule.timesteps(settings.num_steps).to(backbone.device)
    with torch.no_grad(), _variant(policy, reference), _guidance(policy, settings.guidance_scale):
        for t, s in pairwise(grid):
            latents = policy.step(
                latents, t.expand(len(latents)), s.expand(len(latents)), texts, eta=0.0
            ).mean
        return backbone.decode(latents)


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
