"""The LAION aesthetic predictor (sac+logos+ava1-l14-linearMSE): a rating of the image alone.

    score = W (CLIP ViT-L/14 image embedding, unit length) + b

The released head has five linear layers and no activation between them, so it is one affine map, bias 5.2366 and
weights of norm 17.9956; its layers are kept and run one by one, as released. Pixels as transformers' CLIPProcessor
prepares them, which is LPO's way; the original demo crops as torchvision does. float32.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, ClassVar

from evaluators._files import place
from evaluators._network import Network
from lpobench.plugin import Metric

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from torch import nn

    from evaluators._live import Scorer

SOURCE = "christophschuhmann/improved-aesthetic-predictor, sac+logos+ava1-l14-linearMSE; usually 4 to 7"


class Aesthetic(Network):
    """LAION's aesthetic predictor on CLIP ViT-L/14: a rating from 1 to 10 of the image alone."""

    version: ClassVar[str] = "1"
    metrics: ClassVar[dict[str, Metric]] = {"aesthetic": Metric(-13, 24, True, "points of 10", SOURCE)}
    licence: ClassVar[str] = "Apache-2.0"

    head: str = "aesthetic"
    """Its head: an asset, or a file, .pth or .safetensors."""
    clip: str = "clip-vit-l14"
    """The CLIP it sits on: an asset, or a folder in transformers' layout."""

    def assets(self) -> dict[str, Path]:
        """What it reads. Raises MissingAsset or UserError."""
        return {"aesthetic head": place(self.head), "its CLIP": place(self.clip)}

    def load(self, device: torch.device, dtype: torch.dtype) -> Scorer:
        """The live scorer; what it computes in is its own setting."""
        from evaluators._batches import in_batches
        from evaluators._clip.tower import tower
        from evaluators._live import Scorer
        from evaluators._pixels import Preparation

        file, folder = self.assets().values()
        clip, size = tower(folder, self.torch_dtype(device), device), self.batch_size
        prepare = Preparation.read(folder / "preprocessor_config.json", clip.image_size, "floor")
        head = read_head(file, clip.width).to(device)
        look = partial(clip.embed_images, prepare=prepare, batch_size=size)
        return Scorer.of(self, lambda images, prompts: in_batches(head, size, look(images)).squeeze(1))


def read_head(path: Path, width: int) -> nn.Sequential:
    """The head in a file, for embeddings of `width`; float32, on the CPU. Raises UserError."""
    import torch

    from evaluators._files import fill
    from evaluators._head import affine_mlp
    from lpobench.weights import read_tensors

    with torch.device("meta"):
        head = affine_mlp(width)
    weights = {name.removeprefix("layers."): value for name, value in read_tensors(path).items()}
    fill(head, weights, path, torch.float32)
    return head
