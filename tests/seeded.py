"""Random weights and pictures that are the same under every version of every library: from a seed, by name.

The golden numbers of tests/evaluators/golden were made by the scorers' official code on these weights; numpy only,
so that their old environments can import it.
"""

from __future__ import annotations

import gzip
import json
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

Shapes = Mapping[str, Sequence[int]]


def uniform(name: str, shape: Sequence[int], low: float, high: float) -> np.ndarray:
    """float32 in [low, high); 24 random bits each."""
    size = math.prod(shape)
    drawn = np.frombuffer(random.Random(name).randbytes(4 * size), "<u4") >> 8
    return (low + (high - low) * (drawn / 2**24)).astype(np.float32).reshape(shape)


def weights(shapes: Shapes, seed: int = 0) -> dict[str, np.ndarray]:
    """Of a state dict's shapes, rounded to half precision and stored in float32.

    Matrices keep the size of what goes through them; the one-dimensional are around 1 where they scale (called
    `weight`), around 0 where they shift.
    """
    found = {}
    for name, shape in shapes.items():
        middle, width = (1.0 if name.endswith("weight") else 0.0), 0.2
        if len(shape) >= 2:
            middle, width = 0.0, math.sqrt(3 / math.prod(shape[1:]))
        drawn = uniform(f"{seed} {name}", shape, middle - width, middle + width)
        found[name] = drawn.astype(np.float16).astype(np.float32)
    return found


def picture(width: int, height: int, seed: int = 0) -> np.ndarray:
    """Hard edges under noise, uint8 (height, width, 3)."""
    draw = random.Random(f"picture {seed}")
    rows, columns = np.arange(height) * 5 // height, np.arange(width) * 7 // width
    blocks = np.frombuffer(draw.randbytes(5 * 7 * 3), np.uint8).reshape(5, 7, 3)[rows][:, columns]
    noise = np.frombuffer(draw.randbytes(height * width * 3), np.uint8).reshape(height, width, 3)
    return ((3 * blocks.astype(np.uint16) + noise) // 4).astype(np.uint8)


SIZES = [(224, 224), (512, 512), (303, 224), (200, 333), (97, 150), (640, 353), (231, 500)]
"""Width and height of the golden pictures: as is, smaller, and both orientations with odd remainders; the
last is one that newer Pillows resize in another order than those the scorers were released with."""
PROMPTS = [
    "a photo of a red cube",
    'two dogs, one cat & a "sign" that says HELLO-WORLD\'s 100% café',
    "",
    "an astronaut riding a horse on the moon, " * 12,
]
"""Plain, odd, empty, and longer than any text encoder reads."""


def pictures() -> list[np.ndarray]:
    return [picture(*size, seed=number) for number, size in enumerate(SIZES)]


def write_clip_vocabulary(folder: Path, bpe: Path) -> None:
    """vocab.json and merges.txt of CLIP's own tokenizer, of the file that open_clip and clip ship."""
    merges = gzip.decompress(bpe.read_bytes()).decode().split("\n")[1 : 49152 - 256 - 2 + 1]
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = range(256, 256 + 256 - len(plain))
    letters = [chr(code) for code in (*plain, *others)]
    tokens = [*letters, *(letter + "</w>" for letter in letters), *("".join(m.split()) for m in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {token: number for number, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")


def write_golden(path: Path, document: Mapping[str, object]) -> None:
    """JSON with a line per key."""
    lines = (f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in document.items())
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def golden(name: str) -> dict:
    """Numbers of the official code, by the scorer's name."""
    path = Path(__file__).parent / "evaluators" / "golden" / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8"))


WORDS = (
    "an",
    "the",
    "of",
    "photo",
    "red",
    "cube",
    "two",
    "dogs",
    "one",
    "cat",
    "sign",
    "moon",
    "astro",
    "##naut",
)
BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *map(chr, range(33, 127)), "##s", "##é", *WORDS]
"""A vocabulary for BERT's tokenizer."""
