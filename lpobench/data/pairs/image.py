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
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=FORMATS) as file:
                return np.asarray(file.convert("RGB"))
    except BROKEN as error:
        raise BadImage("an image cannot be decoded") from error


def image_hash(data: bytes) -> str:
    """SHA-256 of the encoded file: what scores and latents are found by."""
    return hashlib.sha256(data).hexdigest()
