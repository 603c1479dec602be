"""The sample grid: one row per prompt, one column per variant, the same noise along a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

MARGIN, GAP, LINE, FONT_SIZE = 8, 6, 15, 12
SMALLEST, LARGEST = 128, 512
INK, PAPER, YES, NO = "#202020", "white", "#1a7f37", "#c62828"


@dataclass(frozen=True)
class Column:
    """One variant's pictures, and for each whether it passed the yes/no metric (None: there is none)."""

    title: str
    images: UInt8[np.ndarray, "n H W 3"]
    passed: Sequence[bool] | None = None


def grid(path: Path, columns: Sequence[Column], captions: Sequence[str]) -> None:
    """Write a PNG: a caption above each row, a tick or a cross under each picture that was checked."""
    font = ImageFont.load_default(FONT_SIZE)
    side = _side(columns[0].images)
    width = 2 * MARGIN + len(columns) * side + (len(columns) - 1) * GAP
    texts = [_wrap(caption, font, width - 2 * MARGIN) for caption in captions]
    heights = [LINE * len(lines) + side + LINE + GAP for lines in texts]
    sheet = Image.new("RGB", (width, MARGIN + LINE + sum(heights)), PAPER)
    pen = ImageDraw.Draw(sheet)
    lefts = [MARGIN + number * (side + GAP) for number in range(len(columns))]
    for left, column in zip(lefts, columns, strict=True):
        pen.text((left + side / 2, MARGIN / 2), column.title, INK, font, anchor="ma")
    top = MARGIN + LINE
    for row, (lines, height) in enumerate(zip(texts, heights, strict=True)):
        pen.multiline_text((MARGIN, top), "\n".join(lines), INK, font, spacing=LINE - FONT_SIZE - 2)
        for left, column in zip(lefts, columns, strict=True):
            picture = Image.fromarray(column.images[row])
            sheet.paste(
                picture.resize((side, side), _resampling(picture, side)), (left, top + LINE * len(lines))
            )
            if column.passed is not None:
                _mark(pen, left + side // 2, top + height - GAP - LINE // 2, column.passed[row])
        top += height
    sheet.save(path, format="PNG")


def _side(images: np.ndarray) -> int:
    """Shown size of a picture: small ones are enlarged by a whole factor."""
    height = images.shape[1]
    return min(LARGEST, height * -(-SMALLEST // height))


def _resampling(picture: Image.Image, side: int) -> Image.Resampling:
    return Image.Resampling.NEAREST if side >= picture.height else Image.Resampling.LANCZOS


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Lines no wider than `width`, broken between words where that is possible."""
    lines = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}".strip()
        if font.getlength(joined) <= width:
            lines[-1] = joined
        else:
            lines.append(_cut(word, font, width))
    return [line for line in lines if line] or [""]


def _cut(word: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    while font.getlength(word) > width:
        word = word[:-2] + "…"
    return word


def _mark(pen: ImageDraw.ImageDraw, x: int, y: int, passed: bool) -> None:
    """A tick or a cross: told apart by shape, not by color alone."""
    if passed:
        pen.line([(x - 5, y), (x - 1, y + 4), (x + 6, y - 4)], YES, 2)
    else:
        pen.line([(x - 4, y - 4), (x + 4, y + 4)], NO, 2)
        pen.line([(x - 4, y + 4), (x + 4, y - 4)], NO, 2)
