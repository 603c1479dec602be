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
from lpobench.sampling import Policy
from lpobench.scoring.protocols import Noise
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


@dataclass
class Painter:
    """Makes images of one variant: the policy, or its untouched reference.

    `settings` decides steps and guidance, not the policy; `sampler` takes the place of plain sampling at eta 0, and is
    given a generator for each image. A batch that does not fit in memory is halved and tried again, and so are all
    that follow: `halved` is told the new size. Not where the policy is split, whose other processes would not follow.
    """

    policy: Policy
    settings: EvalSettings
    reference: bool = False
    sampler: Sampler | None = None
    noise: Noise = "prompt"
    """Where the noise comes from: see protocols.EvalProtocol."""
    halved: Callable[[int], None] = lambda size: None
    size: int = 0
    """Images in a batch; from settings.batch_size on."""

    def __post_init__(self) -> None:
        self.size = self.size or self.settings.batch_size

    def paint(self, todo: Sequence[tuple[Prompt, int]]) -> Iterator[Batch]:
        """Images by prompt and number, `size` at a time."""
        while todo:
            chosen, indices = map(list, zip(*todo[: self.size], strict=True))
            try:
                batch = Batch(chosen, indices, self._make(chosen, indices))
            except RuntimeError as error:
                if len(chosen) == 1 or self.policy.split or not memory.is_out_of_memory(error):
                    raise
                self.size = (len(chosen) + 1) // 2
            else:
                yield batch
                todo = todo[len(chosen) :]
                continue
            memory.free()  # here, where the error no longer holds what it was raised among
            self.halved(self.size)

    def _make(self, prompts: list[Prompt], indices: list[int]) -> Float[Tensor, "n 3 H W"]:
        starts = STARTS[self.noise](self.policy, prompts, indices, self.settings)
        sampler = self.sampler or at_eta_0
        return _images(self.policy, prompts, starts, self.settings, self.reference, sampler)


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
    """Hash of the probe image.

    It changes with any weight that reaches an image, with the precision and with the library's arithmetic,
    whatever files the weights came from: the content key of everything that is made from the untouched base.
    """
    return digest(probe(backbone, prompt, guidance_scale))


def digest(image: Float[Tensor, "1 3 H W"]) -> str:
    """Of its exact values."""
    return hashlib.blake2b(image.float().cpu().numpy().tobytes(), digest_size=16).hexdigest()


def probe(backbone: Backbone, prompt: str, guidance_scale: float) -> Float[Tensor, "1 3 H W"]:
    """An image the backbone makes in two steps; no adapter may be on it yet."""
    policy = Policy(backbone, SamplingSettings(eta=0.0))
    settings = EvalSettings(num_steps=2, guidance_scale=guidance_scale)
    prompts = [Prompt(prompt, "probe")]
    return _images(policy, prompts, by_prompt(policy, prompts, [0], settings), settings, False, at_eta_0)


@dataclass(frozen=True)
class Starts:
    """Pure noise, a row per image, and what the rows go on drawing from."""

    latents: Float[Tensor, "n c h w"]
    generators: list[torch.Generator]


def by_prompt(policy: Policy, prompts: list[Prompt], indices: list[int], settings: EvalSettings) -> Starts:
    """Of (prompt id, number, seed) alone, drawn on the CPU."""
    generators = [_generator(p.id, i, settings.seed) for p, i in zip(prompts, indices, strict=True)]
    starts = [torch.randn(policy.backbone.latent_shape, generator=generator) for generator in generators]
    return Starts(torch.stack(starts), generators)


def by_torch(policy: Policy, prompts: list[Prompt], indices: list[int], settings: EvalSettings) -> Starts:
    """As `pipeline(prompt, num_images_per_prompt=n, generator=...)` with a generator seeded anew for each prompt.

    Drawn on the policy's device in its dtype: there the noise of an image depends on how many are drawn with it.
    """
    shape = (settings.images_per_prompt, *policy.backbone.latent_shape)
    generator = _torch(policy, settings.seed)
    drawn = torch.randn(shape, generator=generator, device=generator.device, dtype=policy.dtype)
    return Starts(drawn[indices], [generator] * len(indices))


def by_torch_per_image(
    policy: Policy, prompts: list[Prompt], indices: list[int], settings: EvalSettings
) -> Starts:
    """As a pipeline that makes one image at a time, number i from a generator seeded with seed + i."""
    generators = [_torch(policy, settings.seed + index) for index in indices]
    shape, drawn = (1, *policy.backbone.latent_shape), {"device": generators[0].device, "dtype": policy.dtype}
    starts = [torch.randn(shape, generator=generator, **drawn) for generator in generators]
    return Starts(torch.cat(starts), generators)


STARTS: dict[Noise, Callable[[Policy, list[Prompt], list[int], EvalSettings], Starts]] = {
    "prompt": by_prompt,
    "torch": by_torch,
    "torch-per-image": by_torch_per_image,
}


def _torch(policy: Policy, seed: int) -> torch.Generator:
    device = policy.backbone.device
    return torch.Generator(device if device.type == "cuda" else "cpu").manual_seed(seed)


def _images(
    policy: Policy,
    prompts: list[Prompt],
    starts: Starts,
    settings: EvalSettings,
    reference: bool,
    sampler: Sampler,
) -> Float[Tensor, "n 3 H W"]:
    backbone = policy.backbone
    latents, texts = starts.latents.to(backbone.device), [prompt.text for prompt in prompts]
    grid = backbone.schedule.timesteps(settings.num_steps).to(backbone.device)
    with torch.no_grad(), _variant(policy, reference), _guidance(policy, settings.guidance_scale):
        with policy.rollout():
            finished = sampler(policy, latents, texts, grid, starts.generators)
        return policy.decode(finished)


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
