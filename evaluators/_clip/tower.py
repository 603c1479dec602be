"""CLIPs in transformers' layout, each once in memory however many scorers look through it.

`tower` owns the sharing: it hands out the tower of a folder, dtype and device that somebody still holds, and keeps
none alive itself. A tower remembers its last images by reference, so that the next scorer of the same batch, prepared
alike, pays nothing.
"""

from __future__ import annotations

import weakref
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from transformers import CLIPModel

from evaluators._batches import in_batches
from evaluators._clip.prompts import Tokens
from evaluators._files import from_folder, inside, read_json
from evaluators._pixels import Preparation
from lpobench.plugin import UserError
from lpobench.weights import aligned

Key = tuple[Path, torch.dtype, torch.device]
_HELD: weakref.WeakValueDictionary[Key, Tower] = weakref.WeakValueDictionary()


class Tower:
    """A frozen CLIP. Embeddings are unit vectors in float32, on its device."""

    def __init__(self, model: CLIPModel):
        self.model = model
        self._last: tuple[weakref.ref[Tensor], tuple[object, ...], Tensor] | None = None

    @property
    def device(self) -> torch.device:
        return self.model.logit_scale.device

    @property
    def image_size(self) -> int:
        return self.model.config.vision_config.image_size

    @property
    def width(self) -> int:
        """Of an embedding."""
        return self.model.config.projection_dim

    @property
    def text_size(self) -> tuple[int, int]:
        """Of the vocabulary, and of the longest prompt."""
        config = self.model.config.text_config
        return config.vocab_size, config.max_position_embeddings

    @property
    def scale(self) -> float:
        """What logits are cosines times of."""
        return self.model.logit_scale.float().exp().item()

    def embed_images(
        self, images: Float[Tensor, "n 3 H W"], prepare: Preparation, batch_size: int
    ) -> Float[Tensor, "n d"]:
        """Of images in [0, 1]."""
        look = (prepare.geometry(*images.shape[-2:]), prepare.mean, prepare.std, batch_size)
        now = (images._version, *look) if not images.is_inference() else None
        if self._last is not None and self._last[0]() is images and self._last[1] == now:
            return self._last[2]
        pixels = prepare(images).to(self.device, self.model.dtype)
        found = in_batches(lambda some: self.model.get_image_features(some).pooler_output, batch_size, pixels)
        units = F.normalize(found.float(), dim=-1)
        self._last = None if now is None else (weakref.ref(images), now, units)
        return units

    def embed_tokens(self, tokens: Tokens) -> Float[Tensor, "p d"]:
        """Of prompts with an end. What follows it, padding, is not seen: attention only looks back."""
        found = self.model.get_text_features(tokens.to(self.device)).pooler_output
        return F.normalize(found.float(), dim=-1)


def tower(folder: Path, dtype: torch.dtype, device: torch.device) -> Tower:
    """The CLIP in a folder; the one in memory if somebody has it. Raises MissingAsset or UserError."""
    key = (folder.resolve(), dtype, device)
    found = _HELD.get(key)
    if found is None:
        found = _HELD[key] = Tower(_read(folder, dtype).to(device))
    return found


def _read(folder: Path, dtype: torch.dtype) -> CLIPModel:
    kind = read_json(inside(folder, "config.json")).get("model_type")
    if kind != "clip":
        raise UserError(f"{folder / 'config.json'} describes a {kind}, should be a clip")
    inside(
        folder,
        *(name + end for name in ("model.safetensors", "pytorch_model.bin") for end in ("", ".index.json")),
    )
    model = from_folder(CLIPModel, folder, None, "CLIP of its config.json", dtype)
    for parameter in model.parameters():
        parameter.data = aligned(parameter.data)
    return model.requires_grad_(False).eval()
