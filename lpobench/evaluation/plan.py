"""What an evaluation will do, worked out before anything is loaded. No torch."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from lpobench import registry
from lpobench.checkpoints import label_of, locate_checkpoint
from lpobench.data.cache import content
from lpobench.draft import built_in_recipes, parse_override
from lpobench.evaluation.scorers import ALL, Scorer, scorers_of, usable
from lpobench.plugin import UserError
from lpobench.scoring import protocols
from lpobench.scoring.protocols import EvalProtocol
from lpobench.slots import BASELINE, DEFAULTS, name_of
from lpobench.spec import EvalSettings, RunSpec, load_spec

NO_IMAGE = {"num_prompts", "prompts", "batch_size", "confidence", "bootstrap_samples", "grid_prompts"}
"""Evaluation settings that change no image of a given prompt."""


@dataclass(frozen=True)
class Part:
    """Images under one protocol, and who scores them."""

    spec: RunSpec
    protocol: EvalProtocol
    settings: EvalSettings
    scorers: tuple[Scorer, ...]
    num_prompts: int | None
    """So many of the prompts; None: all."""
    cut: bool
    """They are fewer than the protocol's."""

    @property
    def backbone(self) -> str:
        return name_of(self.spec.backbone)

    @property
    def weights(self) -> str:
        return weights_of(self.spec)

    @cached_property
    def checkpoint(self) -> str | None:
        """SHA-256 of what is put onto the backbone, None without it. Raises MissingAsset, UserError."""
        return content(locate_checkpoint(self.spec.checkpoint)) if self.spec.checkpoint else None

    @property
    def identity(self) -> dict[str, Any]:
        """Everything an image depends on but its prompt and the base's own weights, as JSON values."""
        return {
            "backbone": self.backbone,
            "backbone_settings": self.spec.backbone.model_dump(mode="json"),
            "weights": self.weights,
            "checkpoint": self.checkpoint,
            "precision": self.spec.train.precision,
            "protocol": self.protocol.id,
            "settings": self.settings.model_dump(mode="json", exclude=NO_IMAGE),
        }

    @property
    def id(self) -> str:
        """Folder name: readable names, and 8 hex digits of all that decides the images."""
        prompts = {"prompts": self.settings.prompts, "num_prompts": self.num_prompts}
        text = json.dumps({**self.identity, **prompts}, sort_keys=True)
        parts = [self.backbone, self.weights, self.protocol.id, hashlib.sha256(text.encode()).hexdigest()[:8]]
        return re.sub(r"[^\w.-]+", "-", "-".join(parts))


@dataclass(frozen=True)
class Plan:
    """What will be done, and what of "all" cannot be."""

    parts: tuple[Part, ...]
    left_out: Mapping[str, str]
    """Evaluator -> why it is not among them."""
    named: bool
    """The evaluators were named one by one: one that cannot run is an error."""


def plan(
    backbone: str | None,
    checkpoint: str | None,
    evaluators: Sequence[str],
    engine: Sequence[str] | None,
    protocol: str | None,
    overrides: Sequence[str],
    flags: Mapping[str, Any],
    *,
    online: bool = False,
) -> Plan:
    """`flags` are the evaluation settings given as options (prompts, num_prompts, seed), None where not given; for
    `engine` and `online` see scorers_of.

    Raises UserError and MissingAsset for anything that would fail later and can be known now.
    """
    everything = list(evaluators) == [ALL]
    names, left_out = usable(registry.names("evaluators")) if everything else (list(evaluators), {})
    if not names:
        raise UserError(f"no evaluator can run here: {'; '.join(left_out.values())}")
    given = {key: value for key, value in flags.items() if value is not None}
    spec = spec_of(backbone, checkpoint, names, overrides, given)
    scorers = scorers_of(spec.evaluators, engine, online=online)
    chosen = {
        *given,
        *(path[1] for path, _ in map(parse_override, overrides) if path[0] == "eval" and path[1:]),
    }
    parts, unfit = parts_of(spec, scorers, protocol, chosen, not everything)
    return Plan(tuple(parts), {**left_out, **unfit}, not everything)


def spec_of(
    backbone: str | None,
    checkpoint: str | None,
    evaluators: Sequence[str],
    overrides: Sequence[str],
    given: Mapping[str, Any],
) -> RunSpec:
    """A run that trains nothing, with the evaluation settings of the backbone's usual recipe."""
    recipe = f"{backbone or DEFAULTS['backbone']}-{DEFAULTS['method']}"
    flags = {
        "backbone": backbone,
        "checkpoint": checkpoint,
        "evaluators": list(evaluators),
        "method": BASELINE,
    }
    written = [f"eval.{key}={json.dumps(value)}" for key, value in given.items()]
    known = recipe if recipe in built_in_recipes() else None
    if checkpoint is not None:
        flags["method"] = None  # it is implied
    return load_spec(known, flags, [*overrides, *written])


def parts_of(
    spec: RunSpec, scorers: Iterable[Scorer], protocol: str | None, chosen: set[str], named: bool
) -> tuple[list[Part], dict[str, str]]:
    """Scorers by the protocol that makes their images; and those of "all" that the protocol has no images for."""
    parts: dict[tuple[str, str], Part] = {}
    left_out: dict[str, str] = {}
    for scorer in scorers:
        try:
            part = part_of(spec, scorer, protocol, chosen)
        except UserError as error:
            if named or scorer.settings.suite is None:
                raise
            left_out[scorer.name] = str(error)
            continue
        key = part.protocol.id, part.settings.prompts
        earlier = parts.get(key)
        parts[key] = replace(earlier, scorers=(*earlier.scorers, scorer)) if earlier else part
    return list(parts.values()), left_out


def part_of(spec: RunSpec, scorer: Scorer, protocol: str | None, chosen: set[str]) -> Part:
    """One scorer's images. An evaluator of a suite brings its prompts where the protocol leaves them free."""
    suite = scorer.settings.suite
    rules = protocols.find(protocol) if protocol else protocols.of_suite(suite)
    fewer = "num_prompts" in chosen
    settings = rules.settings(spec.eval, name_of(spec.backbone), weights_of(spec), chosen - {"num_prompts"})
    own = protocols.of_suite(suite).prompts
    if suite is not None and rules.prompts not in (None, own):
        raise UserError(
            f"evaluator {scorer.name} judges the prompts of {own}, protocol {rules.id} has {rules.prompts}; "
            f"use --protocol {protocols.of_suite(suite).id}, or {protocols.STANDARD}"
        )
    brought = suite is not None and "prompts" not in chosen
    if brought:
        settings = settings.model_copy(update={"prompts": own})
    whole = rules.prompts is not None or brought
    number = None if whole and not fewer else spec.eval.num_prompts
    return Part(
        spec, rules, settings, (scorer,), number, (whole and fewer) or rules.has_part(settings.prompts)
    )


def protocol_notes() -> dict[str, str]:
    """What each protocol is, in a sentence."""
    return {name: one.means for name, one in protocols.protocols().items()}


def protocol_table() -> dict[str, dict[str, Any]]:
    """Everything each protocol says, as JSON values."""
    return {name: one.model_dump(mode="json") for name, one in protocols.protocols().items()}


def weights_of(spec: RunSpec) -> str:
    """What is put onto the backbone."""
    return label_of(spec.checkpoint) if spec.checkpoint else BASELINE
