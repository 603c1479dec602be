"""A backbone's prompts, encoded once."""

from collections.abc import Iterable

import torch

from lpobench.types import Backbone, Conditioning

CACHED = 1024
"""Encoded prompts kept, least recently used first to go; at SDXL's size 315 KB each."""
REMEMBERED_AT_ONCE = 64
"""Prompts that `remember` encodes in one batch."""


class EncodedPrompts:
    """Rows of conditioning by prompt: some for good, others until newer ones take their place."""

    def __init__(self, backbone: Backbone):
        self.backbone = backbone
        self._recent: dict[str, Conditioning] = {}
        self._remembered: dict[str, Conditioning] = {}
        self._last: tuple[list[str], Conditioning | None] = ([], None)

    def __call__(self, prompts: list[str]) -> Conditioning:
        """One row each; each distinct prompt is encoded once, new ones in one batch."""
        if self._last[1] is None or prompts != self._last[0]:
            self._last = (list(prompts), self._gather(prompts))
        return self._last[1]

    def remember(self, prompts: Iterable[str], device: torch.device | None = None) -> None:
        """Encode prompts now and keep them for good, on `device` or else where the backbone puts them."""
        unseen = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._remembered]
        for start in range(0, len(unseen), REMEMBERED_AT_ONCE):
            encoded = self._encode(unseen[start : start + REMEMBERED_AT_ONCE])
            self._remembered |= {p: row if device is None else row.to(device) for p, row in encoded.items()}

    def _gather(self, prompts: list[str]) -> Conditioning:
        distinct = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._remembered]
        self._recent |= self._encode([prompt for prompt in distinct if prompt not in self._recent])
        rows = [(self._remembered if p in self._remembered else self._recent)[p] for p in prompts]
        for prompt in distinct:  # most recently used last
            self._recent[prompt] = self._recent.pop(prompt)
        while len(self._recent) > CACHED:
            del self._recent[next(iter(self._recent))]
        return type(rows[0]).cat(rows).to(self.backbone.device)

    def _encode(self, prompts: list[str]) -> dict[str, Conditioning]:
        """One row per prompt, of one batch."""
        if not prompts:
            return {}
        with torch.no_grad():
            rows = self.backbone.encode_prompt(prompts)
        return {prompt: rows.take(torch.tensor([i])) for i, prompt in enumerate(prompts)}
