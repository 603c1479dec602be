"""Encoded image files to pixels."""

from __future__ import annotations

import hashlib
import io
import struct
import warnings
import zlib

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray
from PIL import Image

FORMATS = ("JPEG", "PNG", "WEBP")
PNG_DEPTH = 24
"""Where a PNG says how many bits a sample has."""
BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
"""What Pillow's decoders raise on damaged files."""


class BadImage(ValueError):
    """Bytes that are not a whole image file. Its text is the reason to count in `Problems`."""


def decode(data: bytes) -> UInt8[ndarray, "H W 3"]:
    """Pixels of a JPEG, PNG or WebP file, as stored (no EXIF turn), alpha dropped. Raises BadImage."""
    return decode_noted(data)[0]


def decode_noted(data: bytes) -> tuple[UInt8[ndarray, "H W 3"], tuple[str, ...]]:
    """Pixels as `decode` gives them, and what had to be done to the file's own for that."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=FORMATS) as file:
                return _to_rgb(file), _conversions(file, data)
    except BROKEN as error:
        raise BadImage("an image cannot be decoded") from error


def _to_rgb(file: Image.Image) -> UInt8[ndarray, "H W 3"]:
    if not file.mode.startswith("I"):
        return np.asarray(file.convert("RGB"))
    high = (np.asarray(file).astype(np.uint32) >> 8).astype(
        np.uint8
    )  # Pillow would clip 16 bits, not scale them
    return np.repeat(high[..., None], 3, axis=2)


def _conversions(file: Image.Image, data: bytes) -> tuple[str, ...]:
    """In the words of a sentence about images: "3 were grey"."""
    sixteen = file.format == "PNG" and data[PNG_DEPTH] == 16
    alpha = file.mode in ("RGBA", "LA", "PA") or "transparency" in file.info
    found = {
        "grey, made RGB": file.mode.startswith(("1", "L", "I")),
        "of 16 bits, cut to 8": sixteen,
        "with an alpha channel, dropped": alpha,
        "of a palette, made RGB": file.mode in ("P", "PA"),
        "CMYK, made RGB": file.mode == "CMYK",
        "animated, the first frame taken": getattr(file, "is_animated", False),
    }
    return tuple(what for what, so in found.items() if so)


def image_hash(data: bytes) -> str:
    """SHA-256 of the encoded file: what scores and latents are found by."""
    return hashlib.sha256(data).hexdigest()
