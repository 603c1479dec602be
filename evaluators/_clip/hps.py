"""HPSv2's model, which is open_clip's CLIP, and its letterboxed pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from open_clip import CLIP, get_model_config
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize

from evaluators._batches import in_batches
from evaluators._clip.prompts import PromptCache, openai_tokenizer
from evaluators._clip.similarity import Similarity
from evaluators._files import fill, read_json
from evaluators._pixels import OPENAI_MEAN, OPENAI_STD, standardised
from lpobench.plugin import UserError
from lpobench.weights import read_tensors


def read_model(weights: Path, architecture: str) -> CLIP:
    """float32, on the CPU. Raises UserError."""
    config = read_json(Path(architecture)) if Path(architecture).is_file() else get_model_config(architecture)
    if config is None:
        raise UserError(f'architecture "{architecture}" is neither a file nor a model that open_clip knows')
    try:
        with torch.device("meta"):
            model = CLIP(**config)
    except TypeError as error:
        raise UserError(f"{architecture} is no plain CLIP of open_clip: {error}") from error
    fill(model, read_tensors(weights), weights, torch.float32)
    length = model.context_length
    model.attn_mask = torch.full((length, length), -torch.inf).triu(
        1
    )  # of no file: attention looks back only
    return model


def similarity(model: CLIP, dtype: torch.dtype, batch_size: int, antialias: bool) -> Similarity:
    """The score; a `dtype` other than float32 is autocast to."""
    device = model.positional_embedding.device

    def unit(encode: Callable[[Tensor], Tensor], rows: Tensor) -> Float[Tensor, "n d"]:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            return F.normalize(encode(rows.to(device)).float(), dim=-1)

    def look(images: Tensor) -> Float[Tensor, "n d"]:
        side = model.visual.image_size[0]
        pixels = letterboxed(images, side, antialias).to(device)
        return in_batches(lambda some: unit(model.encode_image, some), batch_size, pixels)

    tokenize = openai_tokenizer(model.vocab_size, model.context_length)
    return Similarity(look, PromptCache(tokenize, lambda tokens: unit(model.encode_text, tokens)))


def letterboxed(images: Float[Tensor, "n 3 H W"], side: int, antialias: bool) -> Float[Tensor, "n 3 s s"]:
    """Long side to `side`, as floats, bicubic and unclamped; black around; normalised."""
    height, width = images.shape[-2:]
    scale = side / max(height, width)
    high, wide = round(height * scale), round(width * scale)
    pixels = (images.float() * 255).round() / 255
    if scale != 1:
        pixels = resize(pixels, [high, wide], InterpolationMode.BICUBIC, antialias=antialias)
    above, left = (side - high) // 2, (side - wide) // 2
    pixels = F.pad(pixels, (left, side - wide - left, above, side - high - above))
    return standardised(pixels, OPENAI_MEAN, OPENAI_STD)
