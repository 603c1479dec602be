"""A VAE and a scorer whose answers can be worked out by hand, and counts of how often they were asked."""

import pandas as pd
import torch

from lpobench.plugin import Metric


class PoolingVae:
    """Latents are the average colours of an 8 x 8 grid of the image; the log-variance is minus twice as much."""

    name, latent_space = "pooling", "pooling-f8c3"
    latent_shape = (3, 8, 8)

    def __init__(self, identity: str = "pool", side: int = 64, stop_after: int | None = None):
        self.identity, self.side, self.stop_after = identity, side, stop_after
        self.asked, self.released = 0, 0

    def image_side(self) -> int:
        return self.side

    def vae_dtype(self) -> torch.dtype:
        return torch.float32

    def vae_identity(self) -> str:
        return self.identity

    def release_vae(self) -> None:
        self.released += 1

    def posterior(self, images):
        assert images.shape[1:] == (3, self.side, self.side)
        self.asked += len(images)
        if self.stop_after is not None and self.asked > self.stop_after:
            raise KeyboardInterrupt
        mean = torch.nn.functional.adaptive_avg_pool2d(images, 8)
        return mean, -2 * mean


class Brightness:
    """Mean of the pixels, and how long the caption is times that."""

    version = "1"
    metrics = {  # noqa: RUF012
        "mean": Metric(0, 1, True, "", "here"),
        "length": Metric(0, 1e9, True, "", "here"),
    }

    def __init__(self, stop_after: int | None = None):
        self.stop_after, self.asked, self.shapes = stop_after, [], set()

    def score(self, images, prompts):
        if self.stop_after is not None and len(self.asked) >= self.stop_after:
            raise KeyboardInterrupt
        self.asked += [prompt.text for prompt in prompts]
        self.shapes.add(tuple(images.shape[2:]))
        means = images.double().mean((1, 2, 3)).tolist()
        lengths = [mean * len(prompt.text) for mean, prompt in zip(means, prompts, strict=True)]
        return pd.DataFrame({"mean": means, "length": lengths})


def files(folder) -> dict[str, bytes]:
    """The files of a result that are not scratch, by path."""
    found = (path for path in folder.rglob("*") if path.is_file() and ".workers" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}
