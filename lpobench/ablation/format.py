"""How an ablation is written in TOML: the built-in ones, and a user's own.

    [ablation]                              all optional: see About
    title = "DPO temperature and adapter"

    [sweep]                                 every key is an axis; the cells are all combinations
    "method.beta" = [100, 500]              a setting and its values
    "lora.rank" = { values = [4, 8], label = "rank", also = { "lora.alpha" = "none" } }

    [[sweep.data]]                          or a name, and under each label a set of settings
    label = "filtered"
    set = { method = "lpo", "reward.training.mpcf" = "2" }

backbone, method and reward as settings are plug-ins by name: the flags of `lpobench run`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated

from pydantic import BeforeValidator, Field, JsonValue, NonNegativeInt

from lpobench.plugin import Settings, UserError

Pattern = Annotated[str, Field(min_length=1)]
"""Of backbones' names, such as "tiny-*"."""


class About(Settings):
    """The table [ablation]."""

    title: str = ""
    """in a few words"""
    source: str = ""
    """where the values are from, and how they differ from a paper's"""
    recipe: str | None = None
    """built-in recipe or file; none: that of backbone and method"""
    backbone: str | None = None
    """of all cells"""
    method: str | None = None
    """of all cells"""
    reward: str | None = None
    """of all cells"""
    set: dict[str, JsonValue] = Field(default_factory=dict)
    """settings of all cells, by dotted path"""
    seeds: tuple[NonNegativeInt, ...] | None = None
    """training seeds; none: the recipe's"""
    train_reward: bool = False
    """every cell's reward model is trained first, once for all cells that share it"""


class Choice(Settings):
    """One value of an axis."""

    label: Annotated[
        str, Field(min_length=1), BeforeValidator(lambda v: v if isinstance(v, str) else show(v))
    ]
    """what a table calls it"""
    value: JsonValue = None
    """what a curve is drawn over; none: the label"""
    set: dict[str, JsonValue] = Field(default_factory=dict)
    """its settings, by dotted path"""
    train_reward: bool | None = None
    """whether its reward model is trained first; none: as the ablation says"""
    on: Pattern = "*"
    """backbones it is for"""
    optional: bool = False
    """where it cannot run, it is left out and that is said; otherwise the ablation is refused"""


class Listed(Settings):
    """Values of a setting."""

    values: tuple[JsonValue, ...] = Field(min_length=1)
    """of the setting"""
    labels: tuple[str, ...] | None = None
    """of the values; none: as TOML spells them"""

    def choices(self, key: str, also: Mapping[str, JsonValue]) -> tuple[Choice, ...]:
        """One for each. Raises UserError."""
        labels = self.labels or (None,) * len(self.values)
        if len(labels) != len(self.values):
            raise UserError(f"{len(labels)} labels for {len(self.values)} values")
        return tuple(of_value(key, v, text, also) for v, text in zip(self.values, labels, strict=True))


class Elsewhere(Listed):
    """Other values of a setting, for some backbones."""

    source: str = ""
    """why"""


class Values(Listed):
    """A setting's axis, at length."""

    label: str | None = None
    """of the axis; none: the last part of the setting's path"""
    also: dict[str, JsonValue] = Field(default_factory=dict)
    """settings that go with every value"""
    on: dict[Pattern, Elsewhere] = Field(default_factory=dict)
    """other values for backbones of that name; the last that fits counts"""


def show(value: object) -> str:
    """A value as a label: bare text, everything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def of_value(key: str, value: JsonValue, label: str | None, also: Mapping[str, JsonValue]) -> Choice:
    """A setting's value."""
    return Choice(label=show(value) if label is None else label, value=value, set={key: value, **also})
