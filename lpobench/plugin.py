"""Settings of plug-ins. No torch here: names, fields and defaults must be readable in milliseconds.

A plug-in is a frozen settings object. Its fields are the command line's `--set` keys, the recipe's keys and
the record's keys, and the line under a field is its help text. What needs weights is made by `load`, which
imports what it needs when it is called.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, model_validator

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    import torch

    from lpobench.sampling.policy import Policy
    from lpobench.sections import TrainSettings
    from lpobench.types import Backbone, Context, Evaluator, RewardModel, Rows

Need = Literal["prompts", "pairs", "reward"]


class UserError(ValueError):
    """Something the user can mend. `exit_code` is the command line's, see lpobench/cli/exits.py."""

    exit_code = 2


class MissingAsset(UserError):
    """Weights, data or a package that is not on this machine; the message says how to supply it."""

    exit_code = 3


@dataclass(frozen=True)
class Metric:
    """What one score column means."""

    low: float
    high: float
    higher_is_better: bool
    unit: str
    source: str
    """Citation, or the rule in one line."""


Names = Annotated[
    tuple[str, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)
]
"""Names or paths; a single one may be given bare."""


def _ascending(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise ValueError(f"the smaller timestep comes first, got {list(bounds)}")
    return bounds


TimestepRange = Annotated[tuple[float, float], AfterValidator(_ascending)]
"""Two timesteps, ends included."""

Strategy = Annotated[
    Literal["none", "1", "2", "3"],
    BeforeValidator(lambda value: str(value) if type(value) is int else value),
]
"""A filter of preference pairs (lpobench/data/mpcf.py); a number may be given bare."""


class Settings(BaseModel):
    """Frozen, closed to unknown keys, documented by the string under each field."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    @model_validator(mode="before")
    @classmethod
    def _read_none(cls, values: object) -> object:
        """TOML has no null: the text "none" stands for it where a setting may be None."""
        if not isinstance(values, dict):
            return values
        optional = _optional(cls)
        return {key: None if key in optional and value == "none" else value for key, value in values.items()}


@cache
def _optional(cls: type[BaseModel]) -> frozenset[str]:
    """Fields that may be None."""
    fields = cls.model_fields.items()
    return frozenset(name for name, field in fields if type(None) in get_args(field.annotation))


class BackboneSettings(Settings):
    """A text-to-image diffusion model."""

    usual_guidance: ClassVar[float] = 5.0
    """Classifier-free guidance of a run, in training and evaluation, where none is given."""

    @property
    def latent_space(self) -> str:
        """Name of the autoencoder's latent space; a latent reward must read the same one."""
        raise NotImplementedError

    @property
    def releases_text_encoders(self) -> bool:
        """A run encodes all its prompts once and then frees the text encoders."""
        return False

    def assets(self) -> dict[str, Path]:
        """What it reads from disk: a word for it, and where it should be."""
        return {}

    def load(self, device: torch.device, dtype: torch.dtype) -> Backbone:
        raise NotImplementedError


class RewardSettings(Settings):
    """A step-level reward model."""

    judges: ClassVar[bool] = True
    """Its score of finished images is worth a column in the table of a run that uses it."""

    @property
    def version(self) -> str:
        """Changes when a score could, though settings and files stay."""
        return "1"

    @property
    def latent_space(self) -> str | None:
        """Latent space it reads, known without reading weights; None when it reads images.

        Raises MissingAsset where only the weights' folder can tell, and it is not there.
        """
        return None

    def reads(self) -> frozenset[tuple[str, str]]:
        """The evaluators' metrics that it is made of, as (evaluator, metric): a run that it trains is marked there."""
        return frozenset()

    def assets(self) -> dict[str, Path]:
        """What it reads from disk: a word for it, and where it should be."""
        return {}

    def load(self, backbone: Backbone, device: torch.device, dtype: torch.dtype) -> RewardModel:
        raise NotImplementedError

    def training_data(self) -> dict[str, Path | str]:
        """What `train` reads: files and folders, whose contents decide whether an earlier training may be reused,
        or a text that identifies what is too large to be read for that."""
        return {}

    def train(
        self, backbone: Backbone, folder: Path, *, seed: int, device: torch.device, dtype: torch.dtype
    ) -> Self:
        """Train into `folder`, which may hold an unfinished training; returns settings that load the result."""
        raise UserError(f"reward {type(self).__name__} has no training; run it without --train-reward")

    def measured(self) -> dict[str, list[dict[str, float]]]:
        """What its training found on held-out data, split -> rows of a table; empty where nothing is known."""
        return {}


class MethodSettings(Settings):
    """A training method. The settings object is the live object: `collect` and `loss` read its knobs."""

    needs: ClassVar[frozenset[Need]] = frozenset()
    trains: ClassVar[bool] = True
    """False where nothing is trained: `collect` and `loss` are never called."""
    samples: ClassVar[bool] = False
    """True where `sample` makes the images that are scored, not the plain sampler."""
    default_reward: ClassVar[str | None] = None
    """The reward of a run that names none, where one is needed; None is the default of all methods."""

    def denoiser_calls(self, policy: Policy) -> tuple[int, int]:
        """Denoiser forward passes of one `collect` (a reward's own are its own business) and of one `loss`."""
        raise NotImplementedError

    def check(self, policy: Policy, reward: RewardModel | None) -> None:
        """Called once, before any training or sampling. Raises UserError where these do not suit the method."""

    def thresholds(self, policy: Policy) -> dict[str, float]:
        """What a preference must exceed to be trained on, by the timestep of its step; empty where all are kept."""
        return {}

    def learning_rate(self, train: TrainSettings) -> float:
        """Of AdamW after the warm-up, where a paper has a rule for it."""
        return train.learning_rate

    def collect(self, ctx: Context) -> Rows:
        """Rows to train on, from one batch of prompts or pairs. Called under no_grad by the training loop.

        Every random number of a round is drawn here, from `ctx.generator`.
        """
        raise NotImplementedError

    def complete(self, rows: Rows) -> Rows:
        """The round's rows, of all shards together: here is what depends on all of them, such as their mean."""
        return rows

    def loss(self, ctx: Context, rows: Rows) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Scalar loss of a minibatch (a mean over rows) and scalar tensors to log."""
        raise NotImplementedError

    def sample(
        self,
        policy: Policy,
        reward: RewardModel | None,
        latents: torch.Tensor,
        prompts: list[str],
        timesteps: torch.Tensor,
        generators: list[torch.Generator],
    ) -> torch.Tensor:
        """Finished latents (n, c, h, w) from noise, along `timesteps`, each row with its own generator."""
        raise NotImplementedError


class EvaluatorSettings(Settings):
    """A scorer of finished images."""

    version: ClassVar[str]
    """Changes when a score could: earlier scores are then made again."""
    metrics: ClassVar[dict[str, Metric]]
    licence: ClassVar[str] = ""
    """Of its weights; "" where it has none of others."""
    suite: ClassVar[str | None] = None
    """The prompt set that it judges alone; None judges any. A protocol of that suite says how images are made."""
    official: ClassVar[str | None] = None
    """The worker in lpobench/scoring/workers that has its authors' own code, if there is one."""

    def assets(self) -> dict[str, Path]:
        """What it reads from disk: a word for it, and where it should be. Raises MissingAsset."""
        return {}

    def load(self, device: torch.device, dtype: torch.dtype) -> Evaluator:
        raise NotImplementedError

    def official_options(self) -> dict[str, Any]:
        """What the worker is told once, JSON values: which model, which weights."""
        return {}

    def summary(self, scores: pd.DataFrame) -> dict[str, float]:
        """Numbers of the whole suite that are no means over images, from its rows: prompt_id, image, prompt, task,
        and its metrics.
        """
        return {}

    @classmethod
    def convert(cls, file: Path, folder: Path) -> None:
        """Rewrite weights as others publish them into a folder that `load` reads."""
        raise UserError(f"evaluator {cls.__name__} reads weights as they are published: nothing to convert")
