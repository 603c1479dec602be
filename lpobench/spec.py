"""What a run is: a plug-in's settings per slot, and how to sample, train and evaluate. No torch here.

In Python `spec.method` is the settings object itself; in TOML and JSON it is a table:

    [method]
    name = "lpo"
    beta = 500
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    NonNegativeInt,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from lpobench import registry
from lpobench.checkpoints import label_of, locate_checkpoint
from lpobench.draft import Draft, find_recipe, recipe_for
from lpobench.plugin import (
    BackboneSettings,
    EvaluatorSettings,
    MethodSettings,
    MissingAsset,
    RewardSettings,
    Settings,
    UserError,
)
from lpobench.problems import SettingsError, explain
from lpobench.sections import EvalSettings, LoraSettings, SamplingSettings, TrainSettings
from lpobench.slots import BASELINE, DEFAULTS, SLOTS, make, name_of, slot

__all__ = ["EvalSettings", "LoraSettings", "RunSpec", "SamplingSettings", "TrainSettings", "load_spec"]


def _default_reward(fields: dict[str, Any]) -> Settings | None:
    wanted = "method" in fields and "reward" in fields["method"].needs
    return make("reward", fields["method"].default_reward or DEFAULTS["reward"]) if wanted else None


class RunSpec(Settings):
    """One run: the combination that is compared with the untouched base, and every number behind it."""

    backbone: Annotated[BackboneSettings, *slot("backbone")] = Field(
        default_factory=lambda: make("backbone", DEFAULTS["backbone"])
    )
    """the diffusion model"""
    method: Annotated[MethodSettings, *slot("method")] = Field(
        default_factory=lambda: make("method", DEFAULTS["method"])
    )
    """the training method"""
    reward: Annotated[RewardSettings | None, *slot("reward")] = Field(default_factory=_default_reward)
    """the reward model; none when the method needs no reward"""
    evaluators: tuple[Annotated[EvaluatorSettings, *slot("evaluators")], ...] = Field(
        default_factory=lambda: (make("evaluators", DEFAULTS["evaluators"]),), min_length=1
    )
    """what scores the finished images"""
    sampling: SamplingSettings = SamplingSettings()
    """how images are sampled during training"""
    lora: LoraSettings = LoraSettings()
    """the trained adapter"""
    train: TrainSettings = TrainSettings()
    """the training loop"""
    eval: EvalSettings = EvalSettings()
    """the images that are scored"""
    checkpoint: Annotated[str, Field(min_length=1)] | None = None
    """weights scored in the method's place: the name of a published checkpoint, or a path; needs method none"""
    seed: NonNegativeInt = 0
    """of training: adapter, prompts, noise"""
    device: str = "auto"
    """auto (a GPU when there is one), cpu, mps, cuda or cuda:N; no part of the id"""

    @field_validator("device")
    @classmethod
    def _known_device(cls, value: str) -> str:
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", value):
            raise ValueError(f'should be auto, cpu, mps, cuda or cuda:N, got "{value}"')
        return value

    @field_validator("reward", mode="before")
    @classmethod
    def _drop_unneeded(cls, value: object, info: ValidationInfo) -> object:
        method = info.data.get("method")
        return None if method is not None and "reward" not in method.needs else value

    @field_validator("sampling", "eval", mode="before")
    @classmethod
    def _usual_guidance(cls, value: object, info: ValidationInfo) -> object:
        """The backbone's, where none is given."""
        if "backbone" not in info.data:
            return value
        usual = {"guidance_scale": info.data["backbone"].usual_guidance}
        if isinstance(value, Settings) and "guidance_scale" not in value.model_fields_set:
            return value.model_copy(update=usual)
        return usual | value if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _fits_together(self) -> RunSpec:
        if self.checkpoint is not None and (self.method.trains or self.method.samples):
            does = "train" if self.method.trains else "sample in its own way"
            raise UserError(
                f"checkpoint {self.checkpoint} is scored as it is, method {name_of(self.method)} would {does}: "
                f"use --method {BASELINE}"
            )
        if "reward" in self.method.needs and self.reward is None:
            raise UserError(
                f"method {name_of(self.method)} needs a reward; known: {', '.join(registry.names('rewards'))}"
            )
        try:
            space = self.reward.latent_space if self.reward else None
        except MissingAsset:  # not trained yet: `check_assets` has the last word
            space = None
        if self.reward and space not in (None, self.backbone.latent_space):
            raise UserError(
                f"reward {name_of(self.reward)} reads latents of {space}, "
                f"backbone {name_of(self.backbone)} makes {self.backbone.latent_space}"
            )
        return self

    @model_validator(mode="after")
    def _one_thing_is_trained(self) -> RunSpec:
        if self.train.parameters == "all" and self.lora != LoraSettings():
            raise UserError("train.parameters is all, which leaves no adapter: leave lora.* out")
        if self.train.sharding == "fsdp2" and (self.train.parameters != "all" or not self.method.trains):
            raise UserError(
                f'train.sharding is fsdp2, and the run trains {self.trains}: it needs train.parameters "all"'
            )
        if self.train.sharding == "fsdp2" and self.train.precision == "fp16":
            raise UserError(
                "train.precision fp16 scales losses, which train.sharding fsdp2 does not know: use bf16 or fp32"
            )
        return self

    @model_serializer(mode="wrap")
    def _without_unused(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values = dump(self)
        if self.train.parameters == "all":
            values.pop("lora", None)
        return values

    @property
    def parameters(self) -> LoraSettings | Literal["all"]:
        """What a policy of this run trains, if its method trains."""
        return "all" if self.train.parameters == "all" else self.lora

    @property
    def weights_precision(self) -> Literal["fp32", "bf16", "fp16"]:
        """In which the backbone is loaded. Where all weights are trained, theirs are the master weights and the
        reference's are the same: train.precision is then that of autocast alone."""
        return "fp32" if self.parameters == "all" else self.train.precision

    @property
    def trains(self) -> str:
        """The same in words."""
        if not self.method.trains:
            return "nothing"
        whole = self.parameters == "all"
        return "all weights of the denoiser" if whole else f"a LoRA of rank {self.lora.rank}"

    def check_assets(self, *, trains_reward: bool = False) -> None:
        """Raises MissingAsset for the first file the run would miss. Reads no weights."""
        check_assets_of(self.backbone)
        if self.reward and not trains_reward:
            check_assets_of(self.reward)
        if "pairs" in self.method.needs:
            from lpobench.data.pairs.source import check_there

            for source in self.train.pairs:
                check_there(source)
        if self.checkpoint is not None:
            locate_checkpoint(self.checkpoint)

    def canonical(self) -> str:
        """The one JSON text of what decides the result: every value spelt out, keys sorted, no device."""
        return json.dumps(
            self.model_dump(mode="json", exclude={"device": True, "train": {"sharding"}}),
            sort_keys=True,
            separators=(",", ":"),
        )

    @property
    def id(self) -> str:
        """Folder name of the run: readable names, seed, and 8 hex digits of the canonical JSON's sha256."""
        usual = self.method.default_reward or DEFAULTS["reward"]
        reward = name_of(self.reward) if self.reward else usual
        parts = [
            name_of(self.backbone),
            label_of(self.checkpoint) if self.checkpoint else name_of(self.method),
            *([reward] if reward != usual else []),
        ]
        digest = hashlib.sha256(self.canonical().encode()).hexdigest()[:8]
        return re.sub(r"[^\w.-]+", "-", f"{'-'.join(parts)}-s{self.seed}-{digest}")


def check_assets_of(part: BackboneSettings | RewardSettings) -> None:
    """Raises MissingAsset for the first file a plug-in would miss. Reads no weights."""
    _ = part.latent_space  # raises where only the weights' folder could tell
    for what, path in part.assets().items():
        if not path.exists():
            raise MissingAsset(f"{name_of(part)}: no {what} at {path}")


def load_spec(
    recipe: Path | str | None = None,
    flags: Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
    say: Callable[[str], None] = lambda line: None,
) -> RunSpec:
    """Class defaults < recipe < flags < `--set`. Without a recipe: the built-in one of backbone and method, or that
    of the backbone and the usual method, the method and its own reward replaced.

    `flags` may hold backbone, method, reward (names), evaluators (list of names), checkpoint and seed; None is
    not given. A checkpoint takes the method's place: the rest is as in a run that trains, and so comparable.
    Every problem ends as one UserError, before any weight is read. `say` is told what is dropped on the way.
    """
    flags = {key: value for key, value in (flags or {}).items() if value is not None}
    draft = Draft(say)
    if "checkpoint" in flags and flags.get("method") == BASELINE:
        del flags["method"]  # it is implied, and has no recipe of its own
    about_recipe = _choose_plugins(draft, recipe, flags)
    if "checkpoint" in flags:
        if "method" not in flags:
            draft.choose("method", BASELINE, "--checkpoint")
        draft.put(("checkpoint",), flags["checkpoint"], "--checkpoint: ")
    if "evaluators" in flags:
        draft.choose_evaluators(flags["evaluators"], "--evaluators")
    if "seed" in flags:
        draft.put(("seed",), flags["seed"], "--seed: ")
    for text in overrides:
        draft.set(text)
    train = draft.values.get("train")
    if isinstance(train, dict) and train.get("parameters") == "all":
        draft.drop_from_recipe("lora", "train.parameters is all")
    try:
        spec = RunSpec.model_validate(draft.table())
    except ValidationError as error:
        raise SettingsError(draft.blame(explain(error, RunSpec, "a run"))) from error
    if about_recipe:
        say(about_recipe)
    if spec.reward is None and "reward" in flags:
        say(f"--reward {flags['reward']}: not used, method {name_of(spec.method)} needs no reward")
    return spec


def _choose_plugins(draft: Draft, recipe: Path | str | None, flags: Mapping[str, Any]) -> str | None:
    """The first two layers: a recipe, and the names that flags give. Returns what there is to say of the recipe."""
    backbone, method = (flags.get(name, DEFAULTS[name]) for name in ("backbone", "method"))
    own, found = f"{backbone}-{method}", recipe_for(backbone, method) if recipe is None else recipe
    if found is not None:
        draft.read(*find_recipe(found))
    borrowed = recipe is None and found not in (own, None)
    if borrowed:
        draft.values.pop("method", None)
        if "reward" not in flags and registry.get("methods", method).default_reward:
            draft.values.pop("reward", None)
    for name in SLOTS:
        if name in flags:
            draft.choose(name, flags[name], f"--{name}")
    if found is None:
        return f"no built-in recipe {own}: settings not given are the defaults of their classes"
    return f"no built-in recipe {own}: {found} is used, its method replaced" if borrowed else None
