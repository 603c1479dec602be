"""The labelled pairs a reward model is trained and measured on."""

from __future__ import annotations

from collections.abc import Sequence

from lpobench.data import mpcf
from lpobench.data.pairs import LatentPairs
from lpobench.data.pairs.training import open_latents
from lpobench.launch import ranks
from lpobench.plugin import UserError
from lpobench.types import Backbone


def open_splits(
    names: Sequence[str], backbone: Backbone, strategy: mpcf.Strategy
) -> tuple[LatentPairs, dict[str, LatentPairs]]:
    """Pairs of all sources to train on, and the held-out splits of the first one.

    Raises UserError where there is nothing to train on or nothing to validate with.
    """
    sources = [open_latents(name, backbone) for name in names]
    held_out = {name: sources[0].split(name) for name in ("validation_unique", "test_unique")}
    pairs = training_pairs(sources, strategy)
    if not len(pairs) or not len(held_out["validation_unique"]):
        filtered = "train pairs" if strategy == "none" else "train pairs that pass MPCF"
        raise UserError(f"{', '.join(names)}: needs {filtered} and validation_unique pairs")
    return pairs, held_out


def training_pairs(sources: Sequence[LatentPairs], strategy: mpcf.Strategy) -> LatentPairs:
    """The sources' train splits, each filtered by MPCF in its own units, as one set."""
    limits = mpcf.STRATEGIES[strategy]
    kept = []
    for source in sources:
        part = source.split("train")
        kept.append(part.take(mpcf.keep(part.table, limits and limits.in_units(source.meta.gap_units))))
        if limits:
            ranks.say(f"MPCF {strategy} keeps {len(kept[-1])} of {len(part)} training pairs")
    return LatentPairs.cat([part for part in kept if len(part)] or kept[:1])
