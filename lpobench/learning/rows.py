"""What methods train on: dataclasses of tensors and prompts that share their first axis (see
lpobench.types.Rows).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from lpobench.types import Rows


class StepRows(Rows):
    """Rows in the order of a rollout: step by step, and prompt by prompt within a step."""

    t: Float[Tensor, " n"]

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
    """Single steps x_t -> x_s with their advantage within the group that shares x_t."""

    latents: Float[Tensor, "n c h w"]
    t: Float[Tensor, " n"]
    s: Float[Tensor, " n"]
    sample: Float[Tensor, "n c h w"]
    logprob: Float[Tensor, " n"]
    """Under the policy that drew it, nats per latent element."""
    advantage: Float[Tensor, " n"]
    prompts: list[str]


@dataclass(frozen=True)
class ImagePairs(Rows):
    """A better and a worse clean latent for the same prompt, from a preference dataset."""

    winner: Float[Tensor, "n c h w"]
    loser: Float[Tensor, "n c h w"]
    prompts: list[str]
