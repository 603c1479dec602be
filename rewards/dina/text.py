"""Prompts as the backbone's text encoders give them to its transformer, remembered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from diffusers import SD3Transformer2DModel
from jaxtyping import Float
from torch import Tensor, nn

from lpobench.types import Backbone, Conditioning

if TYPE_CHECKING:
    from lpobench.sampling import Policy

ROOM = 4 * 2**30
"""Bytes of encodings that are kept, on the CPU; SD3.5's with T5 take 2.7 MB each in half precision."""


class TransformerText(Conditioning):
    """For type checkers: what SD3's family encodes prompts to."""

    prompt_embeds: Float[Tensor, "n words joint"]
    pooled: Float[Tensor, "n pooled"]


class TransformerBackbone(Backbone, Protocol):
    """For type checkers: what of SD3's family a DiNa-LRM looks at."""

    denoiser: SD3Transformer2DModel
    text_encoder_3: nn.Module | None
    t5_tokens: int

    def encode_prompt(self, prompts: list[str]) -> TransformerText: ...


class Prompts:
    """A backbone's encodings. Each is made alone: neighbours in a batch would change a score's last bits."""

    def __init__(self, backbone: TransformerBackbone, room: int = ROOM):
        self.backbone, self.room = backbone, room
        self.known: dict[str, TransformerText] = {}

    def __call__(self, prompts: list[str]) -> TransformerText:
        """One row per prompt, on the backbone's device. Raises UserError when it released its text encoders."""
        rows = [self._encoded(prompt) for prompt in prompts]
        return type(rows[0]).cat(rows).to(self.backbone.device)

    def of(self, prompts: list[str], policy: Policy) -> TransformerText:
        """The same, from the policy where it is the backbone's: it remembers its prompts in any case."""
        return policy.conditioning(prompts) if policy.backbone is self.backbone else self(prompts)

    def _encoded(self, prompt: str) -> TransformerText:
        if prompt not in self.known:
            with torch.no_grad():
                self.known[prompt] = self.backbone.encode_prompt([prompt]).to(torch.device("cpu"))
        self.known[prompt] = encoded = self.known.pop(prompt)  # most recently used last
        size = encoded.prompt_embeds.nbytes + encoded.pooled.nbytes
        while len(self.known) > 1 and len(self.known) * size > self.room:
            del self.known[next(iter(self.known))]
        return encoded
