"""Evaluation protocols: versioned rules of how images are made and which are scored. No torch here.

`protocols.toml` has a row for each. Numbers of two protocols are never comparable, so a protocol's id stands in every
record and table. What a row leaves to "eval" is the user's, by the settings of that name; the rest is fixed.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import NonNegativeInt, PositiveInt

from lpobench.plugin import Settings, UserError
from lpobench.problems import hint
from lpobench.spec import EvalSettings

STANDARD = "standard@1"
Noise = Literal["prompt", "torch", "torch-per-image"]
FREE = "eval"


class EvalProtocol(Settings):
    """One row of the table."""

    id: str
    means: str
    """in a sentence"""
    limits: str = ""
    """what cannot be reproduced exactly here"""
    suite: str | None = None
    """the suite of evaluators it is for; none: those of no suite"""
    prompts: str | None = None
    """prompt set; none: the user's choice"""
    images_per_prompt: PositiveInt | Literal["eval"]
    """images made of each prompt"""
    scored: Literal["all", "first"] = "all"
    """which of them are scored"""
    num_steps: PositiveInt | Literal["eval"]
    """denoising steps"""
    guidance: dict[str, float | Literal["eval"]]
    """classifier-free guidance by `backbone/weights` (none: its own), by `backbone`, or `default`: the closest holds"""
    noise: Noise = "prompt"
    """`prompt`: by prompt, image and seed; `torch`: torch's generator, seeded anew for each prompt, draws the noise of
    all its images at once; `torch-per-image`: seeded with seed + number for each image"""
    seed: NonNegativeInt | Literal["eval"]
    """of the noise"""
    schedule: Literal["backbone", "sdxl"] = "backbone"
    """the noise levels and timesteps: the backbone's own, or SDXL's whatever the backbone"""

    def fixed(self) -> set[str]:
        """The evaluation settings that are not the user's."""
        values = {
            "images_per_prompt": self.images_per_prompt,
            "num_steps": self.num_steps,
            "guidance_scale": self.guidance["default"],
            "seed": self.seed,
        }
        return {name for name, value in values.items() if value != FREE} | (
            {"prompts"} if self.prompts else set()
        )

    def settings(
        self, given: EvalSettings, backbone: str, weights: str, chosen: Iterable[str] = ()
    ) -> EvalSettings:
        """The evaluation settings of this protocol: the user's where it leaves them free. `weights` is what was put
        onto the backbone, "none" for its own. Raises UserError for a `chosen` setting that is fixed; a part of the
        protocol's prompts may be chosen.
        """
        part = self.has_part(given.prompts)
        if wrong := sorted(self.fixed() & set(chosen) - ({"prompts"} if part else set())):
            raise UserError(
                f"protocol {self.id} fixes {', '.join(wrong)}; use --protocol {STANDARD} to choose for yourself"
            )
        rules = {
            "images_per_prompt": self.images_per_prompt,
            "num_steps": self.num_steps,
            "guidance_scale": self.guidance_of(backbone, weights),
            "seed": self.seed,
            "prompts": given.prompts if part else self.prompts or FREE,
        }
        return given.model_copy(update={name: value for name, value in rules.items() if value != FREE})

    def has_part(self, prompts: str) -> bool:
        """Whether a prompt set is a part of the protocol's: such as hpdv2-prompts/anime of hpdv2-prompts."""
        return self.prompts is not None and prompts.startswith((f"{self.prompts}/", f"{self.prompts}."))

    def guidance_of(self, backbone: str, weights: str) -> float | Literal["eval"]:
        """The closest rule's."""
        names = (f"{backbone}/{weights}", backbone, "default")
        return next(self.guidance[name] for name in names if name in self.guidance)

    def indices(self, images_per_prompt: int) -> range:
        """The images of a prompt that are scored."""
        return range(1 if self.scored == "first" else images_per_prompt)


@cache
def protocols() -> Mapping[str, EvalProtocol]:
    """By id, in the order of the file."""
    rows = tomllib.loads((Path(__file__).parent / "protocols.toml").read_text(encoding="utf-8"))
    return {name: EvalProtocol.model_validate({"id": name, **row}) for name, row in rows.items()}


def find(protocol: str) -> EvalProtocol:
    """By id. Raises UserError; a name without its version is unknown, and answered with the versions there are."""
    if protocol not in protocols():
        raise UserError(f'unknown protocol "{protocol}"; {hint(protocol, protocols())}')
    return protocols()[protocol]


def of_suite(suite: str | None) -> EvalProtocol:
    """The newest protocol of a suite; of no suite it is the standard. Raises UserError."""
    if suite is None:
        return protocols()[STANDARD]
    found = [protocol for protocol in protocols().values() if protocol.suite == suite]
    if not found:
        raise UserError(f'no protocol for the suite "{suite}"; known: {", ".join(protocols())}')
    return found[-1]
