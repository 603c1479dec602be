"""A picture of a few preference pairs."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from lpobench.data.pairs.image import decode
from lpobench.data.pairs.record import PreferencePair

SIDE, FRAME, SPACE, LINE = 160, 5, 10, 15
ACROSS = 3
"""Pairs side by side."""
MARKS = {1.0: ("#2a9d4a", "preferred"), 0.0: ("#c9c9c9", ""), 0.5: ("#e0a100", "tie")}
"""Frame of an image, and the word below it, by its label."""


def grid(pairs: Sequence[PreferencePair]) -> Image.Image:
    """Pairs with their prompts; the preferred image, or the two of a tie, are framed and named."""
    tile = SIDE + 2 * FRAME
    width, height = 2 * tile + SPACE, tile + 3 * LINE + SPACE
    across, down = min(ACROSS, max(1, len(pairs))), max(1, -(-len(pairs) // ACROSS))
    sheet = Image.new("RGB", (across * (width + SPACE) + SPACE, down * height + SPACE), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for number, pair in enumerate(pairs):
        left = SPACE + number % ACROSS * (width + SPACE)
        top = SPACE + number // ACROSS * height
        for image, label, x in zip(
            pair.images, (pair.label_0, pair.label_1), (left, left + tile + SPACE // 2), strict=True
        ):
            color, word = MARKS[label]
            sheet.paste(_framed(image, color), (x, top))
            pen.text((x + tile // 2, top + tile), word, color, font, anchor="ma")
        lines = textwrap.wrap(pair.caption, 56, max_lines=2, placeholder=" ...")
        pen.multiline_text((left, top + tile + LINE), "\n".join(lines), "black", font)
    return sheet


def write_grid(path: Path, pairs: Sequence[PreferencePair]) -> None:
    file = io.BytesIO()
    grid(pairs).save(file, "PNG")
    path.write_bytes(file.getvalue())


def _framed(data: bytes, color: str) -> Image.Image:
    """An image fitted into SIDE x SIDE, in a frame."""
    picture = Image.fromarray(decode(data))
    scale = SIDE / max(picture.size)
    size = tuple(max(1, round(length * scale)) for length in picture.size)
    tile = Image.new("RGB", (SIDE + 2 * FRAME, SIDE + 2 * FRAME), color)
    tile.paste("white", (FRAME, FRAME, FRAME + SIDE, FRAME + SIDE))
    picture = picture.resize(size, Image.Resampling.LANCZOS)
    tile.paste(picture, (FRAME + (SIDE - size[0]) // 2, FRAME + (SIDE - size[1]) // 2))
    return tile
