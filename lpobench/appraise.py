"""Rewards from a command line: how good they are on held-out pairs, and what they say of plain images."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from lpobench.data.image_prompts import Prompted
from lpobench.data.pairs import LatentPairs
from lpobench.data.pairs.autoencoder import as_autoencoder
from lpobench.evaluation.gaps import gaps
from lpobench.evaluation.scorers import Scorer
from lpobench.launch import memory
from lpobench.plugin import RewardSettings, UserError
from lpobench.prepare import LESS, device_of, dtype_of, reward_identity
from lpobench.progress import progress
from lpobench.records.provenance import git_state, versions
from lpobench.records.record import write_atomic
from lpobench.report.quality import accuracy_chart
from lpobench.sampling import Policy
from lpobench.scoring.noised import level_name, parse_level, usual_levels
from lpobench.scoring.pair_scores import HELD_OUT, held_out_pairs, score_pairs
from lpobench.scoring.plain_images import ImageScorer, ImageScores
from lpobench.scoring.reward_quality import Quality, quality
from lpobench.slots import name_of
from lpobench.spec import RunSpec
from lpobench.types import Backbone, RewardModel

SUMMARY, CHART = "summary.json", "accuracy-by-timestep"
SMALLER = "a smaller --batch needs less, and so does a lower train.precision"


def evaluate_rewards(
    spec: RunSpec,
    rewards: Mapping[str, RewardSettings],
    source: str,
    out: Path,
    *,
    splits: Sequence[str] | None = None,
    limit: int | None = None,
    timesteps: Sequence[str] | None = None,
    seed: int = 0,
    batch_size: int = 32,
) -> tuple[dict[str, Any], Quality]:
    """Score held-out pairs at every noise level with all rewards, and write what is found into `out`.

    accuracy.csv, calibration.csv, margins.csv, agreement.csv (of several rewards), the chart, and last summary.json,
    which is returned, and says what was done and with what. Raises UserError and MissingAsset.
    """
    with memory.explained("loading the models", LESS):
        backbone = spec.backbone.load(device_of(spec), dtype_of(spec))
        levels = [parse_level(t, backbone) for t in dict.fromkeys(timesteps or ())] or usual_levels(backbone)
        splits = list(dict.fromkeys(splits or HELD_OUT))
        pairs = held_out_pairs(source, backbone, splits, limit)
        policy, live = load(spec, rewards, backbone)
    with (
        progress(len(pairs) * len(levels), "scoring") as advance,
        memory.explained("scoring pairs", SMALLER),
    ):
        scores = score_pairs(live, policy, pairs, levels, seed=seed, batch_size=batch_size, advance=advance)
    found = quality(scores, pairs, levels)
    about = {
        **describe(spec, rewards),
        "source": source,
        "splits": splits,
        "limit": limit,
        "seed": seed,
        "levels": [level_name(level) for level in levels],
        **counts(pairs),
    }
    document = {**about, **{name: records(table) for name, table in tables(found).items()}}
    write(out, found, document)
    return document, found


def score_images(
    spec: RunSpec,
    rewards: Mapping[str, RewardSettings],
    scorers: Sequence[Scorer],
    folder: Path,
    images: Prompted,
    *,
    t: str | None = None,
    seed: int = 0,
    batch_size: int = 8,
) -> ImageScores:
    """Score the images of a folder. Raises UserError, such as where none can be read."""
    device, policy, live, level = device_of(spec), None, {}, None
    with ExitStack() as stack:
        with memory.explained("loading the models", LESS):
            if rewards:
                backbone = as_autoencoder(spec.backbone.load(device, dtype_of(spec)))
                level = parse_level(t, backbone) if t is not None else None
                policy, live = load(spec, rewards, backbone)
            judges = {scorer.label: stack.enter_context(scorer.live(device)) for scorer in scorers}
        by_all = ImageScorer(live, policy, judges, level, seed, batch_size)
        with (
            progress(len(images.files), "scoring") as advance,
            memory.explained("scoring images", SMALLER),
        ):
            found = by_all.score(folder, images, advance)
    if sum(found.problems.values()) == len(found.table):
        reasons = ", ".join(f"{count} {reason}" for reason, count in found.problems.items())
        raise UserError(f"none of the {len(found.table)} images in {folder} can be scored: {reasons}")
    return replace(found, differences=gaps(scorers, found.table))


def load(
    spec: RunSpec, rewards: Mapping[str, RewardSettings], backbone: Backbone
) -> tuple[Policy, dict[str, RewardModel]]:
    """The untouched backbone as a policy, and the rewards."""
    policy = Policy(backbone, spec.sampling, None)
    device, dtype = device_of(spec), dtype_of(spec)
    return policy, {name: settings.load(backbone, device, dtype) for name, settings in rewards.items()}


def describe(spec: RunSpec, rewards: Mapping[str, RewardSettings]) -> dict[str, Any]:
    """What a number depends on besides the pairs."""
    return {
        "backbone": name_of(spec.backbone),
        "backbone_settings": spec.backbone.model_dump(mode="json"),
        "sampling": spec.sampling.model_dump(mode="json"),
        "precision": spec.train.precision,
        "rewards": {
            label: {
                "name": name_of(settings),
                "identity": reward_identity(settings),
                "settings": settings.model_dump(mode="json"),
            }
            for label, settings in rewards.items()
        },
        "versions": versions(),
        "git": (state := git_state()) and state.model_dump(),
        "device": str(device_of(spec)),
    }


def counts(pairs: LatentPairs) -> dict[str, Any]:
    """Of the pairs that were scored."""
    table = pairs.table
    return {
        "pairs": len(table),
        "win_lose": int((table["label_0"] != 0.5).sum()),
        "captions": table["caption"].nunique(),
        "by_split": table["split"].astype(str).value_counts().to_dict(),
    }


def tables(found: Quality) -> dict[str, pd.DataFrame]:
    """By what their files are called; empty ones left out."""
    named = {
        "overall": found.overall,
        "accuracy": found.levels,
        "calibration": found.calibration,
        "margins": found.margins,
        "agreement": found.agreement,
    }
    return {name: table for name, table in named.items() if len(table)}


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """JSON values; what is not known is null."""
    return json.loads(table.to_json(orient="records", double_precision=15))


def write(out: Path, found: Quality, document: Mapping[str, Any]) -> None:
    """The tables, the chart, and the summary, which is last."""
    out.mkdir(parents=True, exist_ok=True)
    for name, table in tables(found).items():
        if name != "overall":
            write_atomic(out / f"{name}.csv", table.to_csv(index=False, lineterminator="\n"))
    note = f"{document['source']}, {document['win_lose']:,} pairs, {document['backbone']}"
    accuracy_chart(found, note).save(out, CHART)
    write_atomic(out / SUMMARY, json.dumps(document, indent=1, ensure_ascii=False) + "\n")
