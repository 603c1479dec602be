"""Plain image files scored by rewards, through the VAE's encoder, and by evaluators, as they are.

A reward sees images as the pair encoder does: resized to the backbone's size, bilinear, aspect ratio not kept. At a
noise level an image's noise follows from its file's content, and a short batch is filled up, so that a score does
not depend on what else is scored. Evaluators get the pixels of the file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float64, UInt8

from lpobench.data.image_prompts import Prompted
from lpobench.data.pairs.autoencoder import as_autoencoder, as_images
from lpobench.data.pairs.image import BadImage, decode_noted, image_hash
from lpobench.data.pairs.prefetch import ahead, resized
from lpobench.records.evaluation import Difference
from lpobench.sampling import Noisy, Policy
from lpobench.scoring.evaluate import metric_columns, score_images
from lpobench.scoring.noised import Level, at_level
from lpobench.types import Evaluator, Prompt, RewardModel

NO_PROMPT, NOT_FINITE = "no prompt", "a score is not finite"
AHEAD = 8


@dataclass(frozen=True)
class Loaded:
    """One image file; without `pixels` it cannot be scored, and `problem` says why."""

    file: str
    prompt: str
    sha256: str = ""
    pixels: UInt8[np.ndarray, "H W 3"] | None = None
    conversions: tuple[str, ...] = ()
    problem: str = ""


@dataclass(frozen=True)
class ImageScores:
    """What a scoring found."""

    table: pd.DataFrame
    """A row per image, in order: file, prompt, a column per score, problem ("" where it was scored)."""
    scores: list[str]
    """The columns that are scores."""
    conversions: dict[str, int]
    """How many images had to be made into what is scored, by what was done."""
    differences: dict[str, Difference] = field(default_factory=dict)
    """Metric -> official code against ours, where both have scored."""

    @property
    def problems(self) -> dict[str, int]:
        """How many images could not be looked at, by reason."""
        found = self.table["problem"]
        return found[~found.isin(["", NOT_FINITE])].value_counts().to_dict()

    @property
    def not_finite(self) -> list[str]:
        """Files that were scored, with something that is not a number."""
        return self.table["file"][self.table["problem"] == NOT_FINITE].tolist()


@dataclass(frozen=True)
class ImageScorer:
    """What scores images, and how."""

    rewards: Mapping[str, RewardModel]
    policy: Policy | None
    """Whose VAE rewards look through; None where there is no reward."""
    evaluators: Mapping[str, Evaluator] = field(default_factory=dict)
    level: Level = None
    seed: int = 0
    batch_size: int = 8

    @property
    def columns(self) -> list[str]:
        """Rewards have their own names, metrics too unless the name is taken."""
        taken = {"file", "problem", *self.rewards}
        metrics = metric_columns(self.evaluators).items()
        own = [f"{owner}.{metric}" if column in taken else column for (owner, metric), column in metrics]
        return [*self.rewards, *own]

    @torch.no_grad()
    def score(
        self, folder: Path, images: Prompted, advance: Callable[[int], None] = lambda count: None
    ) -> ImageScores:
        """All images of a folder that have a prompt."""
        rows: list[dict[str, object]] = []
        conversions: Counter[str] = Counter()
        stream = ahead(lambda: read(folder, images), AHEAD)
        while some := list(islice(stream, self.batch_size)):
            sound = [image for image in some if image.pixels is not None]
            scores = iter(self.score_batch(sound)) if sound else iter(())
            for image in some:
                found = next(scores) if image.pixels is not None else np.full(len(self.columns), np.nan)
                problem = image.problem or ("" if np.isfinite(found).all() else NOT_FINITE)
                values = dict(zip(self.columns, found.tolist(), strict=True))
                rows.append({"file": image.file, "prompt": image.prompt, **values, "problem": problem})
                conversions.update(self.conversions(image))
            advance(len(some))
        return ImageScores(pd.DataFrame(rows), self.columns, dict(conversions))

    def score_batch(self, some: list[Loaded]) -> Float64[np.ndarray, "n columns"]:
        by_reward = [self.by_rewards(some)] if self.rewards else []
        by_evaluator = [self.by_evaluator(name, judge, some) for name, judge in self.evaluators.items()]
        return np.concatenate([*by_reward, *by_evaluator], 1)

    def by_rewards(self, some: list[Loaded]) -> Float64[np.ndarray, "n rewards"]:
        """Filled up to a whole batch: kernels round differently for another batch shape."""
        backbone, n = self.policy.backbone, len(some)
        side = as_autoencoder(backbone).image_side()
        whole = [*some, *[some[-1]] * (self.batch_size - n)]
        images = as_images(np.stack([resized(image.pixels, side) for image in whole])).to(backbone.device)
        prompts = [image.prompt for image in whole]
        if self.level is None:
            noisy = Noisy.of_images(images, prompts, self.policy)
        else:
            names = [image.sha256 for image in whole]
            noisy = at_level(self.policy, backbone.encode(images), prompts, self.level, names, self.seed)
        scores = [reward.score(noisy)[:n].double().cpu().numpy() for reward in self.rewards.values()]
        return np.stack(scores, 1)

    def by_evaluator(
        self, name: str, evaluator: Evaluator, some: list[Loaded]
    ) -> Float64[np.ndarray, "n metrics"]:
        """Images of one size at a time."""
        found = np.empty((len(some), len(evaluator.metrics)))
        sizes: dict[tuple[int, ...], list[int]] = {}
        for place, image in enumerate(some):
            sizes.setdefault(image.pixels.shape, []).append(place)
        for places in sizes.values():
            images = as_images(np.stack([some[place].pixels for place in places]))
            prompts = [Prompt(some[place].prompt, some[place].sha256) for place in places]
            found[places] = score_images(name, evaluator, images, prompts).to_numpy()
        return found

    def conversions(self, image: Loaded) -> list[str]:
        """What was done to an image before it was scored."""
        if image.pixels is None or not self.rewards:
            return list(image.conversions)
        side = as_autoencoder(self.policy.backbone).image_side()
        other = image.pixels.shape[:2] != (side, side)
        return [
            *image.conversions,
            *([f"resized to {side} x {side}, aspect ratio not kept"] if other else []),
        ]


def read(folder: Path, images: Prompted) -> Iterator[Loaded]:
    """The files of a folder, decoded."""
    for file, prompt in zip(images.files, images.prompts, strict=True):
        if prompt is None:
            yield Loaded(file, "", problem=NO_PROMPT)
            continue
        try:
            data = (folder / file).read_bytes()
            pixels, conversions = decode_noted(data)
        except OSError as error:
            yield Loaded(file, prompt, problem=f"cannot be read: {error.strerror}")
        except BadImage:
            yield Loaded(file, prompt, problem="damaged, or no PNG, JPEG or WebP")
        else:
            yield Loaded(file, prompt, image_hash(data), pixels, conversions)
