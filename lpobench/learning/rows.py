"""What methods train on: dataclasses of tensors and prompts that share their first axis (see
lpobench.types.Rows).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from lpobench.types import Rows


def timestep_name(t: float) -> str:
    """As a record has it."""
    return f"{t:.6g}"


class StepRows(Rows):
    """Rows in the order of a rollout: step by step, and prompt by prompt within a step."""

    t: Float[Tensor, " n"]

    def by_timestep(self) -> dict[str, int]:
        """How many there are of each t, from noise to image. Reads the device."""
        times, counts = self.t.unique(return_counts=True)
        pairs = zip(times.tolist(), counts.tolist(), strict=True)
        return {timestep_name(t): count for t, count in sorted(pairs, reverse=True)}

    @classmethod
    def merge(cls, parts: Sequence["StepRows"]) -> "StepRows":
        """Step by step again; t falls along a rollout."""
        if len(parts) == 1:
            return parts[0]
        whole = cls.cat(parts)
        return whole.take(whole.t.argsort(descending=True, stable=True))


@dataclass(frozen=True)
class StepPairs(StepRows):
    """A better and a worse x_s drawn from the same x_t."""

    latents: Float[Tensor, "n c h w"]
    t: Float[Tensor, " n"]
    s: Float[Tensor, " n"]
    winner: Float[Tensor, "n c h w"]
    loser: Float[Tensor, "n c h w"]
    prompts: list[str]


@dataclass(frozen=True)
class StepSamples(StepRows):
    """Steps from one x_t to k draws of x_s, with what each is worth. Along a trajectory k is 1."""

    latents: Float[Tensor, "n c h w"]
    t: Float[Tensor, " n"]
    s: Float[Tensor, " n"]
    samples: Float[Tensor, "n k c h w"]
    logprobs: Float[Tensor, "n k"]
    """Under the policy that drew them, nats per latent element."""
    advantages: Float[Tensor, "n k"]
    prompts: list[str]


@dataclass(frozen=True)
class TransitionPairs(StepRows):
    """A better and a worse step x_t -> x_s at the same time, each from an x_t of its own."""

    winner_latents: Float[Tensor, "n c h w"]
    winner: Float[Tensor, "n c h w"]
    loser_latents: Float[Tensor, "n c h w"]
    loser: Float[Tensor, "n c h w"]
    t: Float[Tensor, " n"]
    s: Float[Tensor, " n"]
    prompts: list[str]


@dataclass(frozen=True)
class NoisySteps(StepRows):
    """x_t, and the noise that the step to s is taken with."""

    latents: Float[Tensor, "n c h w"]
    t: Float[Tensor, " n"]
    s: Float[Tensor, " n"]
    noise: Float[Tensor, "n c h w"]
    prompts: list[str]


@dataclass(frozen=True)
class ImagePairs(Rows):
    """A better and a worse clean latent for the same prompt, from a preference dataset."""

    winner: Float[Tensor, "n c h w"]
    loser: Float[Tensor, "n c h w"]
    prompts: list[str]


@dataclass(frozen=True)
class NoisedPairs(Rows):
    """A better and a worse clean latent, and the noise and time both are looked at with."""

    winner: Float[Tensor, "n c h w"]
    loser: Float[Tensor, "n c h w"]
    noise: Float[Tensor, "n c h w"]
    t: Float[Tensor, " n"]
    prompts: list[str]


@dataclass(frozen=True)
class ReferencedPairs(NoisedPairs):
    """Noised pairs with the denoising errors of a reference that is gone when they are trained on."""

    winner_error: Float[Tensor, " n"]
    loser_error: Float[Tensor, " n"]
