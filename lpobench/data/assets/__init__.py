"""Models, checkpoints, scorers and data sets that are not shipped: what they are, where they lie, how to get them.

`table.toml` has a row for each; nothing else in the project spells a repository's name. A run only looks
(`locate`); the one thing that uses the network is `lpobench download` (fetch.py).
"""

from lpobench.data.assets.places import describe, how_to_supply, locate, look
from lpobench.data.assets.table import HUB_ID, KINDS, Asset, Kind, find, human_size, names, table

__all__ = [
    "HUB_ID",
    "KINDS",
    "Asset",
    "Kind",
    "describe",
    "find",
    "how_to_supply",
    "human_size",
    "locate",
    "look",
    "names",
    "table",
]
