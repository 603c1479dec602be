"""Settings as paths and values, and what tells one set of them from another."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

MOST = 4
"""Settings that are named one by one; sets that differ in more are told apart by their names."""


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested tables as dotted paths, values as JSON; a plug-in's own name is its table's."""
    found: dict[str, str] = {}
    for key, value in values.items():
        path = prefix[:-1] if key == "name" and prefix else f"{prefix}{key}"
        if isinstance(value, Mapping):
            found |= flat(value, f"{path}.")
        else:
            found[path] = value if isinstance(value, str) else "none" if value is None else json.dumps(value)
    return found


def differing(sets: Sequence[Mapping[str, str]]) -> list[str]:
    """Paths whose value is not the same in all; a path that is missing somewhere is one of them."""
    paths = dict.fromkeys(path for one in sets for path in one)
    return [path for path in paths if len({one.get(path) for one in sets}) > 1]


def tell_apart(sets: Sequence[Mapping[str, str]], names: Sequence[str]) -> list[str]:
    """For each what makes it different from the others, such as "method.beta=200"; "" where there is one alone.

    Those that differ in nothing, or in too much, are called by their names.
    """
    if len(sets) < 2:
        return [""] * len(sets)
    paths = differing(sets)
    if not paths or len(paths) > MOST:
        return list(names)
    return [" ".join(f"{path}={one[path]}" for path in paths if path in one) for one in sets]
