"""The contracts every plug-in keeps, and the rows that travel between them.

Axis letters: b prompts, k candidates, n rows, c h w latent, H W image. A step goes t -> s, s the less noisy time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lpobench.plugin import Metric

if TYPE_CHECKING:
    import pandas as pd

    from lpobench.learning.rows import ImagePairs
    from lpobench.sampling.policy import Policy
    from lpobench.sampling.rollout import Noisy
    from lpobench.sampling.schedule import Schedule


@dataclass(frozen=True)
class Prompt:
    """A prompt with a stable id, and tags an evaluator may group by (shapes world: task, split)."""

    text: str
    id: str
    tags: dict[str, str] = field(default_factory=dict)


class Rows:
    """Row operations for a dataclass whose every field has one entry per row: tensors, or lists of strings."""

    def __len__(self) -> int:
        return len(getattr(self, fields(self)[0].name))

    def take(self, rows: Tensor) -> Self:
        """The given rows, by index or by boolean mask."""
        index = rows.nonzero().flatten() if rows.dtype == torch.bool else rows
        pick = lambda v: v[index.to(v.device)] if isinstance(v, Tensor) else [v[i] for i in index.tolist()]
        return replace(self, **{f.name: pick(getattr(self, f.name)) for f in fields(self)})

    def to(self, device: torch.device) -> Self:
        """Tensors moved to a device."""
        move = lambda v: v.to(device) if isinstance(v, Tensor) else v
        return replace(self, **{f.name: move(getattr(self, f.name)) for f in fields(self)})

    @classmethod
    def cat(cls, parts: Sequence[Self]) -> Self:
        """Stack batches of one kind end to end."""
        columns = {f.name: [getattr(part, f.name) for part in parts] for f in fields(cls)}
        join = lambda vs: torch.cat(vs) if isinstance(vs[0], Tensor) else [x for v in vs for x in v]
        return cls(**{name: join(values) for name, values in columns.items()})

    @classmethod
    def merge(cls, parts: Sequence[Self]) -> Self:
        """The rows of a whole round, of the rows of its shards: in the order they would have in one shard."""
        return parts[0] if len(parts) == 1 else cls.cat(parts)


class Conditioning(Rows):
    """A backbone's encoding of prompts: a dataclass of tensors, first axis prompts; opaque to everyone else."""


@runtime_checkable
class Backbone(Protocol):
    """A loaded text-to-image diffusion model: its data, and eight functions."""

    name: str
    schedule: Schedule
    latent_shape: tuple[int, int, int]
    latent_space: str
    device: torch.device
    denoiser: nn.Module
    lora_targets: tuple[str, ...]

    def encode_prompt(self, prompts: list[str]) -> Conditioning:
        """Text encoding, one row per prompt; "" gives the backbone's own negative conditioning."""
        ...

    def predict(self, latents: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """The denoiser's raw output for n latents at n timesteps: one forward pass, no guidance."""
        ...

    def encode(self, images: Float[Tensor, "n 3 H W"]) -> Float[Tensor, "n c h w"]:
        """Scaled latents (posterior mean) of images in [0, 1]."""
        ...

    def decode(self, latents: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 3 H W"]:
        """Images in [0, 1] of scaled latents."""
        ...

    def export_lora(self, folder: Path) -> None:
        """Write the trained adapter so that a stock pipeline's `load_lora_weights(folder)` reproduces it.

        Reloads it into a fresh copy of the base and compares before returning; raises RuntimeError on a difference.
        """
        ...

    def export_denoiser(self, folder: Path) -> None:
        """Write all of the denoiser's weights so that `load_checkpoint(folder)` and a stock pipeline reproduce it.

        Reloads and compares as `export_lora` does.
        """
        ...

    def release_text_encoders(self) -> None:
        """Free what only `encode_prompt` needs, if anything; it raises UserError from then on."""
        ...

    def load_checkpoint(self, path: Path, *, check_only: bool = False) -> str:
        """Put a checkpoint, a LoRA or a whole denoiser, onto the denoiser in place; what it is, in one line.

        `check_only` changes nothing. Raises UserError when a key or a size does not fit, MissingAsset when there
        is no file; the weights are then untouched.
        """
        ...


@runtime_checkable
class RewardModel(Protocol):
    """Scores noisy latents, one number per row, higher is better."""

    latent_space: str | None
    differentiable: bool
    """Whether `score` passes gradients on to `noisy.latents`, where they are enabled."""

    def score(self, noisy: Noisy) -> Float[Tensor, " n"]: ...


@runtime_checkable
class Evaluator(Protocol):
    """Scores finished images."""

    version: str
    metrics: dict[str, Metric]

    def score(self, images: Float[Tensor, "n 3 H W"], prompts: list[Prompt]) -> pd.DataFrame:
        """One row per image, one column per metric, in the order given."""
        ...


@dataclass
class Context:
    """What a method may use. `collect` returns the rows of one shard of the round (`policy.shard`)."""

    policy: Policy
    generator: torch.Generator
    reward: RewardModel | None = None
    next_prompts: Callable[[], list[str]] | None = None
    """The next batch of training prompts: the whole round's; rollouts take the shard's."""
    next_pairs: Callable[[], ImagePairs] | None = None
    """The next batch of preference pairs: the shard's."""
    num_pairs: int = 0
    """How many pairs a whole round takes, those of all shards together."""
    round: int = 0
    """Rounds collected before this one."""
    verdicts: list[Tensor] = field(default_factory=list)
    """For every group that was scored in this round, whether all its scores were finite."""
    mean_scores: list[Tensor] = field(default_factory=list)
    """For every such group, its mean score."""

    def score(self, noisy: Noisy, num: int = 1) -> Float[Tensor, "{num} b"]:
        """The reward of `num` candidates per prompt, the slower axis of `noisy`.

        A prompt with a score that is nan or inf is noted for the loop, which reports it; whoever builds rows
        leaves it out. The loop logs the mean of the others. Nothing is read back from the device here.
        """
        assert self.reward is not None
        scores = self.reward.score(noisy).unflatten(0, (num, -1))
        self.verdicts.append(scores.detach().isfinite().all(0))
        self.mean_scores.append(scores.detach().float().mean(0))
        return scores
