from .image import BadImage, decode, image_hash
from .latent import COLUMNS, LATENTS, META, TABLE, LatentPairs, PairBatch, PairsMeta, Split
from .record import BadRow, PreferencePair, Problems
from .source import PairSource, open_pairs

__all__ = [
    "COLUMNS",
    "LATENTS",
    "META",
    "TABLE",
    "BadImage",
    "BadRow",
    "LatentPairs",
    "PairBatch",
    "PairSource",
    "PairsMeta",
    "PreferencePair",
    "Problems",
    "Split",
    "decode",
    "image_hash",
    "open_pairs",
]
