"""Rewards, evaluators and pairs whose quality is known, on the Gaussian backbone with a VAE that is exact."""

from typing import ClassVar

import made
import numpy as np
import pandas as pd
import pytest
import torch
from made import Toy
from PIL import Image

from backbones.gaussian import Gaussian
from lpobench import registry, slots
from lpobench.data.pairs import LatentPairs, PairsMeta
from lpobench.plugin import EvaluatorSettings, Metric, RewardSettings
from lpobench.sampling import VariancePreserving
from rewards.pixel import Pixel
from rewards.weighted_sum import WeightedSum

SIDE, SHAPE = 4, (1, 4, 4)


class SeeingGaussian(Gaussian):
    """The Gaussian backbone with what the pair encoder asks of a VAE; a grey image and its latents are one."""

    name = "seeing"

    def image_side(self):
        return SIDE

    def vae_dtype(self):
        return torch.float32

    def vae_identity(self):
        return "grey"

    def release_vae(self):
        """There is nothing to free."""

    def posterior(self, images):
        mean = self.encode(images)
        return mean, torch.zeros_like(mean)


class Seeing(Toy):
    """The Gaussian backbone with a VAE."""

    def load(self, device, dtype):
        return SeeingGaussian(VariancePreserving.scaled_linear(), self.scale, dtype)


class Constant(RewardSettings):
    """Every score is the same; of its latent space."""

    value: float = 0.0
    """the score"""
    space: str | None = None
    """latent space"""

    @property
    def latent_space(self):
        return self.space

    @property
    def differentiable(self):
        return True

    def load(self, backbone, device, dtype):
        return self

    def score(self, noisy):
        return noisy.latents.new_full((len(noisy.latents),), self.value)


class Spoilt(Constant):
    """The mean of the latents; not a number where the prompt is 13."""

    def score(self, noisy):
        bad = torch.tensor([prompt == "13" for prompt in noisy.prompts])
        return torch.where(bad, torch.nan, noisy.latents.mean((1, 2, 3)))


class Far(EvaluatorSettings):
    """Distance of the mean brightness from white; less is better."""

    version: ClassVar = "1"
    metrics: ClassVar = {"distance": Metric(0, 1, False, "share of white", "1 - mean")}

    def load(self, device, dtype):
        return self

    def score(self, images, prompts):
        assert images.isfinite().all()
        return pd.DataFrame({"distance": (1 - images.mean((1, 2, 3))).tolist()})


NAMES = {
    "backbones": {"seeing": Seeing, "toy": Toy},
    "rewards": {
        "brighter": made.Brighter,
        "constant": Constant,
        "pixel": Pixel,
        "spoilt": Spoilt,
        "sum": WeightedSum,
    },
    "evaluators": {"far": Far, "meter": made.Meter},
}


@pytest.fixture
def judges(monkeypatch):
    """The plug-ins above, and the default ones; `seeing` and `brighter` are the default."""
    for kind, names in NAMES.items():
        monkeypatch.setitem(made.NAMES, kind, {**made.NAMES[kind], **names})
    made.register_toys(monkeypatch)
    for slot, name in {"backbone": "seeing", "reward": "brighter", "evaluators": "meter"}.items():
        monkeypatch.setitem(slots.DEFAULTS, slot, name)
    return registry


def pairs(
    means: list[tuple[float, float]],
    labels: list[float],
    *,
    captions: list[str] | None = None,
    splits: list[str] | None = None,
    **columns,
) -> LatentPairs:
    """Pairs of constant latents with the given means; the truth is their difference."""
    count = len(means)
    first, second = np.array(means).T
    table = pd.DataFrame(
        {
            "caption": captions or [str(i) for i in range(count)],
            "image_0_uid": [f"{2 * i}" for i in range(count)],
            "image_1_uid": [f"{2 * i + 1}" for i in range(count)],
            "split": splits
            or ["validation_unique", "test_unique"] * (count // 2) + ["test_unique"] * (count % 2),
            "label_0": labels,
            "label_1": 1 - np.array(labels),
            "num_example_per_prompt": 1,
            "has_label": True,
            "aesthetic_gap": np.nan,
            "clipscore_gap": np.nan,
            "vqascore_gap": np.nan,
            "true_preference_0": first,
            "true_preference_1": second,
        }
    ).assign(**columns)
    latents = torch.tensor(np.array(means).ravel(), dtype=torch.float16).view(-1, 1, 1, 1).expand(-1, *SHAPE)
    meta = PairsMeta(latent_space="gaussian", backbone="seeing")
    return LatentPairs(table, latents.contiguous(), [str(i) for i in range(2 * count)], meta)


def picture(path, shade: int, *, mode: str = "RGB", size: tuple[int, int] = (SIDE, SIDE)):
    """A grey image file."""
    Image.new("RGB", size, (shade,) * 3).convert(mode).save(path)
