"""What the project ships with its plug-ins and users may call by name."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
SHIPPED = {"shapes-pairs": "backbones/tiny/shapes-pairs", "tiny-clip": "rewards/weights/tiny-clip"}
"""Name -> folder beside this package."""


def shipped(name: str) -> Path | None:
    """Where a shipped thing lies; None where nothing shipped has this name."""
    return ROOT / SHIPPED[name] if name in SHIPPED else None
